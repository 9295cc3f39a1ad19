//! An open loop: requests leave when they are due, whether or not the last one was answered, and latency counts from
//! when they were due. A closed loop would omit exactly the requests that had to wait (coordinated omission).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::net::TcpStream;

use crate::load::read_response;

/// What to ask, how often, for how long.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    address: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// Requests a second, over all connections.
    #[arg(long, default_value_t = 16_000)]
    rate: u64,
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let start = Instant::now() + Duration::from_millis(50);
        let interval = Duration::from_nanos(1_000_000_000 * flags.connections / flags.rate);
        let until = start + Duration::from_secs(flags.seconds);
        let tasks: Vec<_> = (0..flags.connections)
            .map(|number| {
                // Spread evenly over the interval, so that the connections do not march in step.
                let first = start + interval * u32::try_from(number).unwrap_or(0) / flags.connections as u32;
                tokio::spawn(connection(flags.address, first, interval, until))
            })
            .collect();
        let mut all = Histogram::<u64>::new_with_max(60_000_000, 3)?;
        let mut errors = 0_u64;
        for task in tasks {
            match task.await? {
                Ok(latencies) => all.add(latencies)?,
                Err(_) => errors += 1,
            }
        }
        // The lines that the caller reads: the first two in wrk's words.
        println!("  {} requests in {:.2}s, 0B read", all.len(), start.elapsed().as_secs_f64());
        if errors > 0 {
            println!("  Socket errors: connect 0, read {errors}, write 0, timeout 0");
        }
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            println!("  {name} {} us", all.value_at_quantile(quantile));
        }
        Ok(())
    })
}

/// Latencies in microseconds.
async fn connection(
    address: SocketAddr,
    first: Instant,
    interval: Duration,
    until: Instant,
) -> Result<Histogram<u64>> {
    use tokio::io::AsyncWriteExt as _;
    let mut latencies = Histogram::new_with_max(60_000_000, 3)?;
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut due = first;
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
        read_response(&mut stream, &mut buffer).await?;
        latencies.record(due.elapsed().as_micros() as u64)?;
        due += interval;
    }
    Ok(latencies)
}
