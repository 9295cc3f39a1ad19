//! A tunnel: bytes both ways, until both sides have said that they are done (RFC 9110 §7.8, §9.3.6).

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::deadline::{Deadlines, Limit};
use crate::socket::{ReadSide, Socket, WriteSide};
use crate::worker::Worker;

/// Bytes that went through a tunnel. Kept outside of the work, which a deadline may end anywhere.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// Carries bytes both ways. What one side ends, the other is told; the tunnel is over when both have ended, when one
/// broke, or when both were silent for too long, which the caller's guard sees.
pub(super) async fn carry(
    worker: &Worker,
    client: &mut Socket,
    upstream: &mut Socket,
    deadlines: &Deadlines,
    idle: Option<Duration>,
    carried: &mut Carried,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_upstream, mut to_upstream) = upstream.split();
    let touch = || deadlines.set(Limit::TunnelIdle, Instant::now(), idle);
    touch();
    let Carried { up, down } = carried;
    let mut upwards = std::pin::pin!(one_way(worker, &mut from_client, &mut to_upstream, up, &touch));
    let mut downwards = std::pin::pin!(one_way(worker, &mut from_upstream, &mut to_client, down, &touch));
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        let ended = tokio::select! {
            ended = &mut upwards, if up_open => {
                up_open = false;
                ended
            }
            ended = &mut downwards, if down_open => {
                down_open = false;
                ended
            }
        };
        if ended.is_err() {
            return;
        }
    }
}

async fn one_way(
    worker: &Worker,
    from: &mut ReadSide<'_>,
    to: &mut WriteSide<'_>,
    count: &mut u64,
    touch: &impl Fn(),
) -> io::Result<()> {
    loop {
        // Most tunnels are silent most of the time: a buffer is held only while something moves.
        from.readable().await?;
        let mut buffer = worker.body_buffer();
        buffer.clear();
        let read = from.read_buf(&mut buffer).await;
        let written = match read {
            Ok(0) => {
                worker.return_body_buffer(buffer);
                return to.shutdown().await;
            }
            Ok(bytes) => {
                *count += bytes as u64;
                touch();
                to.write_all(&buffer).await
            }
            Err(error) => Err(error),
        };
        worker.return_body_buffer(buffer);
        written?;
        touch();
    }
}
