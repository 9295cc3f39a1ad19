//! A registration beside a control plane that comes and goes.

use std::path::Path;
use std::time::Duration;

use client::{Options, OptionsError, Registration, State};
use control::{ControlConfig, ControlPlane};

/// With its store in a file, so that the token outlives it.
async fn start(folder: &Path, port: u16) -> ControlPlane {
    let file = folder.join("control.yaml");
    std::fs::write(&file, format!("xds: 127.0.0.1:{port}\nhttp: 127.0.0.1:0\nstore: {{ redb: w.redb }}\n"))
        .expect("written");
    let config = ControlConfig::from_file(&file).expect("valid");
    let started = tokio::task::spawn_blocking(|| ControlPlane::start(config));
    started.await.expect("no panic").expect("it starts")
}

async fn reaches(registration: &Registration, state: State) {
    let mut states = registration.states();
    let reached = tokio::time::timeout(Duration::from_secs(20), states.wait_for(|now| *now == state));
    reached.await.unwrap_or_else(|_| panic!("never {state:?}")).expect("it goes on");
}

#[tokio::test]
async fn a_control_plane_that_flaps_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = start(folder.path(), 0).await;
    let port = plane.xds.port();
    let token = plane.token.clone().expect("the first start");
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut options = Options::new(&endpoint, &token, "shop", "a", "127.0.0.1:80");
    (options.ttl, options.longest_pause) = (Duration::from_secs(1), Duration::from_millis(300));
    let mut registration = Registration::new(options).expect("usable");
    assert_eq!(registration.state(), State::Idle);
    registration.start();
    reaches(&registration, State::Connected).await;
    let mut plane = plane;
    for _ in 0..3 {
        tokio::task::spawn_blocking(|| drop(plane)).await.expect("it ends");
        reaches(&registration, State::Reconnecting).await;
        plane = start(folder.path(), port).await;
        reaches(&registration, State::Connected).await;
    }
    let states = registration.states();
    registration.close().await;
    assert_eq!(*states.borrow(), State::Closed);
}

#[tokio::test]
async fn whoever_may_not_register_keeps_trying_and_can_be_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = start(folder.path(), 0).await;
    let endpoint = format!("http://127.0.0.1:{}", plane.xds.port());
    let mut registration =
        Registration::new(Options::new(&endpoint, "weir_wrong", "shop", "a", "127.0.0.1:80"))
            .expect("usable");
    registration.start();
    let mut states = registration.states();
    let connected = states.wait_for(|state| *state == State::Connected);
    assert!(tokio::time::timeout(Duration::from_millis(500), connected).await.is_err(), "nobody knows it");
    registration.close().await;
}

#[test]
fn options_that_cannot_be_used_are_named() {
    let good = || Options::new("http://127.0.0.1:1", "t", "shop", "a", "127.0.0.1:80");
    let with = |change: fn(&mut Options)| {
        let mut options = good();
        change(&mut options);
        Registration::new(options).err()
    };
    assert_eq!(with(|_| {}), None);
    let field = |error: Option<OptionsError>| error.map(|OptionsError::Field(name, _)| name);
    assert_eq!(field(with(|options| options.service.clear())), Some("service"));
    assert_eq!(field(with(|options| options.ttl = Duration::ZERO)), Some("ttl"));
    assert_eq!(field(with(|options| options.endpoint = "not an address".to_owned())), Some("endpoint"));
    assert_eq!(field(with(|options| options.token = "\n".to_owned())), Some("token"));
}
