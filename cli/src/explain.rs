//! `weir explain`: where a request would go, and why.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use form_urlencoded::Serializer;
use hyper::Uri;
use proxy::{Ask, Bootstrap};

use crate::progress::Progress;
use crate::{BadInput, Format, admin, print, server};

/// Flags of `weir explain`. The answer comes from a running proxy, or from a configuration file that nobody serves.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The method.
    method: String,
    /// The URL, as a client would ask for it.
    url: String,
    /// A header line of the request; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The proxy's admin port; where unset, that of `weir demo` or `weir run` if one goes on, otherwise
    /// http://127.0.0.1:9901.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// A proxy's bootstrap file, instead of a running proxy.
    #[arg(short = 'c', long, conflicts_with = "admin", value_name = "FILE")]
    config_path: Option<PathBuf>,
    /// The client's address.
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Only this listener.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The random number of the request, where a route takes a share of them.
    #[arg(long, value_name = "NUMBER")]
    draw: Option<u64>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let query = query(flags)?;
    let answer = match &flags.config_path {
        None => {
            let left = || server::left().and_then(|left| left["admin"].as_str().map(str::to_owned));
            let base = flags.admin.clone().or_else(left);
            let base = base.unwrap_or_else(|| "http://127.0.0.1:9901".to_owned());
            admin::page("--admin", &base, &format!("/explain?{query}"))?
        }
        Some(path) => {
            let _progress = Progress::of(format!("looking at {}", path.display()));
            let bad = |reason: String| BadInput(reason);
            let bootstrap = Bootstrap::from_file(path).map_err(|error| bad(error.to_string()))?;
            let offline = bootstrap.offline().map_err(|error| bad(format!("{}: {error}", path.display())))?;
            let mut ask = Ask::from_query(&query).map_err(bad)?;
            ask.without_endpoints_of(offline.unknown);
            ask.answer(&offline.snapshot).map_err(|reason| match offline.is_part {
                true => bad(format!(
                    "{reason} in {}; what its control plane adds is not known here",
                    path.display()
                )),
                false => bad(reason),
            })?
        }
    };
    print(&answer)
}

/// The question as the admin port takes it.
fn query(flags: &Flags) -> Result<String> {
    let bad = |reason: &str| BadInput(format!("{}: {reason}", flags.url));
    let with_scheme =
        if flags.url.contains("://") { flags.url.clone() } else { format!("http://{}", flags.url) };
    let url: Uri = with_scheme.parse().map_err(|_| bad("not a URL"))?;
    let authority = url.authority().ok_or_else(|| bad("a URL with a host is wanted"))?;
    let mut host = authority.as_str().to_owned();
    let mut query = Serializer::new(String::new());
    for line in &flags.headers {
        match line.split_once(':') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("host") => host = value.trim().to_owned(),
            _ => drop(query.append_pair("header", line)),
        }
    }
    query.append_pair("method", &flags.method).append_pair("host", &host);
    query.append_pair("path", url.path_and_query().map_or("/", |path| path.as_str()));
    if url.scheme_str() == Some("https") {
        query.append_pair("header", "x-forwarded-proto: https");
    }
    for (name, value) in [
        ("source", flags.source.map(|address| address.to_string())),
        ("listener", flags.listener.clone()),
        ("draw", flags.draw.map(|number| number.to_string())),
        ("format", (flags.output == Format::Json).then(|| "json".to_owned())),
    ] {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    Ok(query.finish())
}
