//! After the report: say what each edit of the file did.

use anyhow::Result;
use indicatif::ProgressBar;

use super::{Demo, client};
use crate::local::{Edit, Edits};

/// Requests that show the new split.
const PROBES: u64 = 1_000;

/// Reports every edit, for as long as it is polled.
pub(super) async fn report_edits(demo: &Demo) -> Result<()> {
    let mut edits = Edits::of(&demo.local);
    loop {
        match edits.next(&demo.local, &demo.file).await {
            Edit::Refused(reason) => println!("refused, the last version stays: {reason}"),
            Edit::Served { version, cause, after } => {
                let counts = client::send(demo.gateway, PROBES, None, &ProgressBar::hidden()).await?;
                let shares: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
                println!(
                    "version {version}: served {} ms after {cause}; of {PROBES} requests now: {}",
                    after.as_millis(),
                    shares.join(", ")
                );
            }
        }
    }
}
