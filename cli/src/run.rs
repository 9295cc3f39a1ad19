//! `weir run`: a file of resources becomes a running gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use control::GatewayConfig;
use proxy::Options;

use crate::BadInput;
use crate::local::{Edit, Edits, Interrupted, Local, Places};

/// Flags of `weir run`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The file, or a folder of files, with resources; watched.
    #[arg(short, long)]
    file: PathBuf,
    /// Where the gateway listens that routes attach to.
    #[arg(long, default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080))]
    address: SocketAddr,
    /// Where `weir status` may ask; any free port of this machine where it is 0.
    #[arg(long, default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18_001))]
    http: SocketAddr,
    /// Where other proxies may follow.
    #[arg(long, default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18_000))]
    xds: SocketAddr,
    /// Worker threads; one for each core where unset.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// A file that gets a line for each request.
    #[arg(long)]
    access_log: Option<String>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    if !flags.file.exists() {
        bail!(BadInput(format!("{}: there is no such file or folder", flags.file.display())));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut interrupted = {
        let _context = runtime.enter();
        Interrupted::new()?
    };
    let places = Places {
        source: flags.file.clone(),
        gateway: GatewayConfig {
            address: flags.address.ip(),
            port: flags.address.port(),
            access_log: flags.access_log.clone(),
        },
        xds: flags.xds,
        http: flags.http,
    };
    let mut options = Options::default();
    if let Some(workers) = flags.concurrency {
        options.workers = workers.into();
    }
    let local = match Local::start(places, options) {
        Err(error) if error.is::<control::StartError>() => match error.downcast::<control::StartError>()? {
            control::StartError::Source(refused) => bail!(BadInput(refused.to_string())),
            other => bail!(other),
        },
        started => started?,
    };
    println!(
        "serving {} at {}; xDS {}, status http://{}",
        flags.file.display(),
        flags.address,
        local.plane.xds,
        local.plane.http
    );
    runtime.block_on(async {
        tokio::select! {
            () = report_edits(&local, &flags.file) => {}
            () = interrupted.wait() => eprintln!("draining"),
        }
    });
    local.stop();
    Ok(())
}

/// Says what became of every edit, for as long as it is polled.
async fn report_edits(local: &Local, file: &Path) {
    let mut edits = Edits::of(local);
    loop {
        match edits.next(local, file).await {
            Edit::Refused(reason) => println!("refused, the last version stays: {reason}"),
            Edit::Served { version, cause, after } => {
                println!("version {version}: served {} ms after {cause}", after.as_millis());
            }
        }
    }
}
