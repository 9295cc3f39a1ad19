//! Origins of our own: the stand-in for nginx with 1 KiB from memory, and two that speak no HTTP.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to be, and where to listen.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[arg(long, value_enum, default_value_t = Kind::Http)]
    kind: Kind,
    #[arg(required = true)]
    addresses: Vec<SocketAddr>,
}

/// What an origin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// 1 KiB for each head.
    Http,
    /// What came goes back.
    Echo,
    /// Bytes as fast as they are taken.
    Flood,
}

pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut accepting = tokio::task::JoinSet::new();
        for address in &flags.addresses {
            let listener = TcpListener::bind(address).await?;
            let kind = flags.kind;
            accepting.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    match kind {
                        Kind::Http => tokio::spawn(serve(stream)),
                        Kind::Echo => tokio::spawn(echo(stream)),
                        Kind::Flood => tokio::spawn(flood(stream)),
                    };
                }
            });
        }
        accepting.join_next().await;
        Ok(())
    })
}

/// Every head gets the same answer; bodies are not expected.
async fn serve(mut stream: TcpStream) {
    let body = "x".repeat(1024);
    let response =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n{body}");
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        while let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            buffer.drain(..end + 4);
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn flood(mut stream: TcpStream) {
    let buffer = vec![b'x'; 256 << 10];
    while stream.write_all(&buffer).await.is_ok() {}
}
