//! The load of a TCP proxy: round trips of 1 KiB, or bytes from the origin as fast as they come.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What to do, how often at once, for how long.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    address: SocketAddr,
    #[arg(long, value_enum)]
    way: Way,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// 1 KiB there and back.
    RoundTrip,
    /// From the origin alone; a MiB counts as one.
    Down,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = Instant::now();
        let until = started + Duration::from_secs(flags.seconds);
        let tasks: Vec<_> = (0..flags.connections)
            .map(|_| {
                let (address, way) = (flags.address, flags.way);
                tokio::spawn(async move {
                    match way {
                        Way::RoundTrip => round_trips(address, until).await,
                        Way::Down => down(address, until).await,
                    }
                })
            })
            .collect();
        let (mut count, mut errors) = (0_u64, 0_u64);
        for task in tasks {
            match task.await? {
                Ok(more) => count += more,
                Err(_) => errors += 1,
            }
        }
        if flags.way == Way::Down {
            count >>= 20;
        }
        // The lines that the caller reads, in wrk's words.
        println!("  {count} requests in {:.2}s, 0B read", started.elapsed().as_secs_f64());
        if errors > 0 {
            println!("  Socket errors: connect 0, read {errors}, write 0, timeout 0");
        }
        Ok(())
    })
}

async fn round_trips(address: SocketAddr, until: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sent, mut back) = ([b'x'; 1024], [0; 1024]);
    let mut count = 0;
    while Instant::now() < until {
        stream.write_all(&sent).await?;
        stream.read_exact(&mut back).await?;
        count += 1;
    }
    Ok(count)
}

/// Bytes.
async fn down(address: SocketAddr, until: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    while Instant::now() < until {
        match stream.read(&mut buffer).await? {
            0 => bail!("the connection was closed"),
            count => bytes += count as u64,
        }
    }
    Ok(bytes)
}
