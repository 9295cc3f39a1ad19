//! Writing to a peer that may not take anything.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;

use crate::deadline::{Deadlines, Limit};

/// Which limit holds while a peer takes nothing, and what rests meanwhile.
#[derive(Clone, Copy)]
pub(super) struct Stall<'a> {
    pub(super) deadlines: &'a Deadlines,
    pub(super) limit: Limit,
    pub(super) time: Option<Duration>,
    /// The limit on the side that we do not read from while this one is full.
    pub(super) rests: Limit,
}

impl Stall<'_> {
    /// Writes all of `bytes`. The time counts from the last byte that was taken, and only where the peer makes us wait.
    pub(super) async fn write_all<W: AsyncWrite + Unpin>(
        &self,
        peer: &mut W,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.write_counted(peer, bytes, &mut 0).await
    }

    /// The same, counting what left, so that a failure says how far it came.
    pub(super) async fn write_counted<W: AsyncWrite + Unpin>(
        &self,
        peer: &mut W,
        bytes: &[u8],
        left: &mut usize,
    ) -> io::Result<()> {
        let mut rest = bytes;
        let mut waits = false;
        poll_fn(|cx| {
            let mut moved = !waits;
            while !rest.is_empty() {
                match Pin::new(&mut *peer).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => {
                        rest = &rest[count..];
                        *left += count;
                        moved = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        if moved {
                            self.deadlines.set(self.limit, Instant::now(), self.time);
                            self.deadlines.clear(self.rests);
                        }
                        waits = true;
                        return Poll::Pending;
                    }
                }
            }
            if waits {
                self.deadlines.clear(self.limit);
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}
