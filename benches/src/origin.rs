//! The stand-in for nginx as origin: 1 KiB from memory, keep-alive.

use std::net::SocketAddr;

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where to listen.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[arg(required = true)]
    addresses: Vec<SocketAddr>,
}

pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut accepting = tokio::task::JoinSet::new();
        for address in &flags.addresses {
            let listener = TcpListener::bind(address).await?;
            accepting.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
        }
        accepting.join_next().await;
        Ok(())
    })
}

/// Every head gets the same answer; bodies are not expected.
async fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
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
