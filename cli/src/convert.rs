//! `weir import`, `export`, `convert`: resources in the forms of others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::{Args, ValueEnum};
use control_core::import::{Given, export_mcp_route, import as import_text};
use control_core::ir::{Built, ImplicitGateway, Inputs, build};
use control_core::lower::{Dialect, Lowering};
use control_core::model::{Kind, Memory, Objects, Resource, read};
use proxy_core::config::Address;
use serde_json::{Value, json};

use crate::progress::Progress;
use crate::resources::{Named, documents};
use crate::server::Server;
use crate::table::{Format, value};
use crate::{BadInput, print};

/// Flags of `weir import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Files of Istio's `VirtualService`, `DestinationRule`, `Gateway` and `ServiceEntry`, or of `MCPRoute`; `-` for standard
    /// input. Those that refer to one another are given together.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A name for a document that has none.
    #[arg(long)]
    name: Option<String>,
    /// A host for a `VirtualService` that has none.
    #[arg(long)]
    host: Option<String>,
}

/// Writes Gateway API and `weir.dev/v1` to standard output, for `weir apply -f -`.
pub(crate) fn import(flags: &Import) -> Result<()> {
    let text = documents(&flags.files)?;
    let progress = Progress::of("importing".to_owned());
    let given = Given { name: flags.name.clone(), host: flags.host.clone() };
    let place = match flags.files.as_slice() {
        [only] => format!("{}:", only.display()),
        _ => String::new(),
    };
    let imported = import_text(&text, &given);
    let imported = imported.map_err(|error| BadInput(format!("{place}{error}")))?;
    drop(progress);
    for warning in &imported.warnings {
        eprintln!("warning: {warning}");
    }
    let texts = imported.resources.iter().map(|resource| yaml(&resource.to_value()?));
    print(&texts.collect::<Result<Vec<_>>>()?.join("---\n"))
}

fn yaml(value: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

/// Flags of `weir export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    named: Named,
    /// The form.
    #[arg(long = "as", value_enum, default_value_t = Form::Yaml)]
    form: Form,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// As it is, without what the control plane added.
    Yaml,
    /// `MCPRoute`, of a route.
    Mcproute,
}

pub(crate) fn export(flags: &Export) -> Result<()> {
    let mut found = flags.server.get(&flags.named.path())?;
    if let Some(fields) = found.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = found["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("creationTimestamp");
    }
    if flags.form == Form::Yaml {
        return print(&yaml(&found)?);
    }
    let bad = |error: String| BadInput(format!("{}: {error}", flags.named.name));
    match Resource::from_value(Kind::HttpRoute, &found).map_err(|error| bad(error.to_string()))? {
        Resource::HttpRoute(route) => {
            print(&yaml(&export_mcp_route(&route).map_err(|error| bad(error.to_string()))?)?)
        }
        _ => Err(bad("only an HTTPRoute can be an MCPRoute".to_owned()).into()),
    }
}

/// Flags of `weir convert`.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// Files of resources; `-` for standard input.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Who is to understand it.
    #[arg(long = "for", value_enum, default_value_t = Reader::Envoy)]
    reader: Reader,
    /// The port of the implicit gateway.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reader {
    /// Envoy, and every other proxy that speaks xDS.
    Envoy,
    /// Weir's own proxy.
    Weir,
    /// Clients of gRPC.
    Grpc,
}

/// Writes what a control plane would send to such a node.
pub(crate) fn convert(flags: &Convert) -> Result<()> {
    // Whoever types the documents needs no word of it.
    let text = documents(&flags.files)?;
    let progress = Progress::of("converting".to_owned());
    let mut objects = Objects::default();
    let name: Arc<str> = match flags.files.as_slice() {
        [only] => only.display().to_string().into(),
        _ => "input".into(),
    };
    for document in read(&name, &text, &mut Memory::default()) {
        let resource = document.content.map_err(|refused| BadInput(refused.to_string()))?;
        objects.put(resource);
    }
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), flags.port);
    let gateway = ImplicitGateway { address: Address::Socket(address), access_log: None };
    let Built { ir, statuses, .. } =
        build(Inputs { objects: &objects, instances: &BTreeMap::new(), gateway: &gateway });
    for (key, status) in &*statuses {
        for complaint in status.complaints() {
            eprintln!("warning: {key}: {complaint}");
        }
    }
    let dialect = match flags.reader {
        Reader::Envoy => Dialect::Standard,
        Reader::Weir => Dialect::Weir,
        Reader::Grpc => Dialect::Grpc,
    };
    let lowering = Lowering::of(&ir).map_err(|error| BadInput(error.to_string()))?;
    let resources = lowering.set(dialect).to_json().map_err(|error| BadInput(error.to_string()))?;
    let shown = json!({ "resources": resources });
    let shown = value(&shown, flags.output)?;
    drop(progress);
    print(&shown)
}
