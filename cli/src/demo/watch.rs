//! After the report: say what each edit of the file did.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use indicatif::ProgressBar;

use super::{Demo, client};

/// How often the file's fate is looked at. The traffic does not wait for this.
const LOOK: Duration = Duration::from_millis(2);
/// Requests that show the new split.
const PROBES: u64 = 1_000;

/// Reports every edit, for as long as it is polled.
pub(super) async fn report_edits(demo: &Demo) -> Result<()> {
    let mut last = demo.plane.status();
    let mut generation = demo.proxy.generation();
    loop {
        tokio::time::sleep(LOOK).await;
        let status = demo.plane.status();
        if status.refusals != last.refusals
            && let Some(reason) = &status.refusal
        {
            println!("refused, the last version stays: {reason}");
        }
        if status.version != last.version {
            // The version is out; it counts when the proxy serves it.
            while demo.proxy.generation() == generation {
                tokio::time::sleep(LOOK).await;
            }
            let saved = std::fs::metadata(&demo.file).and_then(|m| m.modified())?;
            let moved = SystemTime::now().duration_since(saved).unwrap_or_default();
            let counts = client::send(demo.gateway, PROBES, None, &ProgressBar::hidden()).await?;
            let shares: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            println!(
                "version {}: served {} ms after the file was saved; of {PROBES} requests now: {}",
                status.version.unwrap_or(0),
                moved.as_millis(),
                shares.join(", ")
            );
        }
        generation = demo.proxy.generation();
        last = status;
    }
}
