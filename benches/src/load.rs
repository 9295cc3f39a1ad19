//! The stand-in for wrk: connections that each send the next request when the last one was answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What to ask, how often at once, for how long.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    address: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = Instant::now();
        let until = started + Duration::from_secs(flags.seconds);
        let tasks: Vec<_> =
            (0..flags.connections).map(|_| tokio::spawn(connection(flags.address, until))).collect();
        let (mut requests, mut errors) = (0_u64, 0_u64);
        for task in tasks {
            match task.await? {
                Ok(count) => requests += count,
                Err(_) => errors += 1,
            }
        }
        // The two lines that the caller reads, in wrk's words.
        println!("  {requests} requests in {:.2}s, 0B read", started.elapsed().as_secs_f64());
        if errors > 0 {
            println!("  Socket errors: connect 0, read {errors}, write 0, timeout 0");
        }
        Ok(())
    })
}

async fn connection(address: SocketAddr, until: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut requests = 0;
    while Instant::now() < until {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
        read_response(&mut stream, &mut buffer).await?;
        requests += 1;
    }
    Ok(requests)
}

/// Reads one response with a length.
pub(crate) async fn read_response(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    loop {
        if let Some(head) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = std::str::from_utf8(&buffer[..head])?.to_ascii_lowercase();
            if !text.starts_with("http/1.1 200") {
                bail!("not a 200: {text}");
            }
            let length = text.lines().find_map(|l| l.strip_prefix("content-length:"));
            let length: usize = length.unwrap_or("0").trim().parse()?;
            while buffer.len() < head + 4 + length {
                if stream.read_buf(buffer).await? == 0 {
                    bail!("the response was cut");
                }
            }
            buffer.drain(..head + 4 + length);
            return Ok(());
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("the connection was closed");
        }
    }
}
