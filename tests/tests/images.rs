//! Images and `compose.yaml` as they are, without an engine: buildah builds what the Dockerfiles say, and the services of the
//! composition run in network namespaces and empty roots of their own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tests::{eventually, free_port, http_get};

/// Who the programs run as.
const USER: &str = "--userspec=65532:65532";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The folder with the static programs, built once, as the first stage of the Dockerfiles builds them, but for the profile.
fn static_programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let told = run(Command::new("rustc").arg("-vV"));
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let host = told.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "proxy", "--package", "control", "--target", &host])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(repository())
            .status();
        assert!(built.expect("cargo runs").success(), "the programs build");
        // Tests lie in target/debug/deps.
        let this = std::env::current_exe().expect("this program has a path");
        this.ancestors().nth(3).expect("a target folder").join(host).join("debug")
    })
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn must(command: &mut Command) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a Dockerfile says of its image, as lists of words by instruction.
struct Dockerfile {
    entrypoint: Vec<String>,
    command: Vec<String>,
    health: Vec<String>,
}

impl Dockerfile {
    fn of(program: &str) -> Self {
        let path = repository().join(format!("docker/{}.Dockerfile", program.trim_start_matches("weir-")));
        let text = fs::read_to_string(path).expect("it is there").replace("\\\n", " ");
        let words = |instruction: &str| {
            let line = text.lines().find(|line| line.starts_with(instruction)).expect("it is said");
            let list = line.get(line.find('[').expect("a list")..).expect("its words");
            serde_json::from_str(list).expect("a list of words")
        };
        Self { entrypoint: words("ENTRYPOINT"), command: words("CMD"), health: words("HEALTHCHECK") }
    }
}

/// What was started: ended with the value.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn images_are_one_static_program_that_answers() {
    if run(Command::new("sh").args(["-c", "command -v buildah"])).stdout.is_empty() {
        eprintln!("left out: no buildah here");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let store = ["root", "runroot"].map(|name| folder.path().join(name));
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(&store[0]).arg("--runroot").arg(&store[1]);
        command.args(arguments).current_dir(repository());
        command
    };
    for program in ["weir-proxy", "weir-control"] {
        // In place of the first stage.
        let stage = folder.path().join(program);
        fs::create_dir_all(stage.join("out")).expect("made");
        fs::copy(static_programs().join(program), stage.join("out").join(program)).expect("copied");
        let file = format!("docker/{}.Dockerfile", program.trim_start_matches("weir-"));
        let context = format!("builder={}", stage.display());
        must(&mut buildah(&[
            "build",
            "--quiet",
            "--format",
            "docker",
            "--isolation",
            "chroot",
            "--build-context",
            &context,
            "--tag",
            program,
            "--file",
            &file,
            ".",
        ]));
        let about: Value =
            serde_json::from_str(&must(&mut buildah(&["inspect", "--type", "image", program])))
                .expect("JSON");
        let config = &about["Docker"]["config"];
        assert_eq!(config["User"], "65532:65532");
        let said = Dockerfile::of(program);
        assert_eq!(config["Entrypoint"], serde_json::json!(said.entrypoint));
        assert_eq!(config["Healthcheck"]["Test"][0], "CMD");
        let container = must(&mut buildah(&["from", program]));
        let root = PathBuf::from(must(&mut buildah(&["mount", &container])));
        let inside: Vec<_> =
            fs::read_dir(&root).expect("unpacked").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(inside, [program], "nothing else is in it");
        assert!(is_static(&root.join(program)), "{program} needs nothing beside it");
        answers(&root, program, &said);
        must(&mut buildah(&["umount", &container]));
    }
}

/// What every engine puts into a container.
fn add_devices(root: &Path) {
    fs::create_dir_all(root.join("dev")).expect("made");
    for (device, minor) in [("random", "8"), ("urandom", "9")] {
        must(
            Command::new("mknod")
                .args(["-m", "666"])
                .arg(root.join("dev").join(device))
                .args(["c", "1", minor]),
        );
    }
}

/// Whether no interpreter is named among the program headers of an ELF file.
fn is_static(program: &Path) -> bool {
    let headers = must(Command::new("readelf").arg("--program-headers").arg(program));
    !headers.contains("INTERP")
}

/// Runs the image's own words in its root, and asks it, as its health check does and as a client would.
fn answers(root: &Path, program: &str, said: &Dockerfile) {
    let (port, other) = (free_port(), free_port());
    let (path, config) = match program {
        "weir-proxy" => {
            ("proxy.yaml", fs::read_to_string(repository().join("docker/shop-v1.yaml")).expect("read"))
        }
        _ => ("control.yaml", format!("http: 127.0.0.1:{port}\nxds: 127.0.0.1:{other}\nstore: memory\n")),
    };
    let config = config.replace("port_value: 9000", &format!("port_value: {port}"));
    let config = config.replace("port_value: 9901", &format!("port_value: {other}"));
    add_devices(root);
    fs::create_dir_all(root.join("etc/weir")).expect("made");
    fs::write(root.join("etc/weir").join(path), config).expect("written");
    let within = |words: &[String]| {
        let mut command = Command::new("chroot");
        command.arg(USER).arg(root).args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(!within(&said.health).status().expect("it runs").success(), "nothing runs yet");
    let words = [said.entrypoint.clone(), said.command.clone()].concat();
    let running = Running(vec![within(&words).spawn().expect("it starts")]);
    let (page, answer) = if program == "weir-proxy" { ("/", "v1\n") } else { ("/healthz", "OK") };
    eventually("an answer", || {
        http_get(port, page).filter(|response| response.body.starts_with(answer.as_bytes()))
    });
    assert!(within(&said.health).status().expect("it runs").success(), "it is healthy");
    drop(running);
    assert!(!within(&said.health).status().expect("it runs").success(), "it is gone");
}

/// Namespaces on one bridge; the first is everybody else's. Gone with the value.
struct Network(Vec<String>);

impl Network {
    /// None where this process may not make it.
    fn new(hosts: usize) -> Option<Self> {
        let names: Vec<_> = (0..=hosts).map(|i| format!("weirc{i}-{}", std::process::id())).collect();
        let ip = |line: &str| run(Command::new("ip").args(line.split(' '))).status.success();
        let network = Self(names);
        let switch = &network.0[0];
        let made = ip(&format!("netns add {switch}"))
            && ip(&format!("-n {switch} link add br0 type bridge"))
            && ip(&format!("-n {switch} address add {}/24 dev br0", address(0)))
            && ip(&format!("-n {switch} link set br0 up"));
        if !made {
            eprintln!("left out: no network namespaces with a bridge here");
            return None;
        }
        for (i, name) in network.0.iter().enumerate().skip(1) {
            for line in [
                format!("netns add {name}"),
                format!("-n {switch} link add v{i} type veth peer name eth0 netns {name}"),
                format!("-n {switch} link set v{i} master br0 up"),
                format!("-n {name} address add {}/24 dev eth0", address(i)),
                format!("-n {name} link set eth0 up"),
                format!("-n {name} link set lo up"),
            ] {
                assert!(ip(&line), "{line}");
            }
        }
        Some(network)
    }

    fn within(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0[host], program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.0 {
            run(Command::new("ip").args(["netns", "delete", name]));
        }
    }
}

fn address(host: usize) -> String {
    format!("10.99.78.{}", host + 1)
}

/// An empty root with a service's program and volumes, and the names of all services.
fn root_of(service: &Value, folder: &Path, root: &Path, names: &str) -> String {
    let program = service["image"].as_str().expect("an image").to_owned();
    add_devices(root);
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::write(root.join("etc/hosts"), names).expect("written");
    fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n").expect("written");
    let kept = folder.join(&program);
    if !kept.exists() {
        fs::copy(static_programs().join(&program), &kept).expect("copied");
    }
    fs::hard_link(&kept, root.join(&program)).expect("linked");
    for volume in service["volumes"].as_array().into_iter().flatten() {
        let (from, to) = volume.as_str().and_then(|text| text.split_once(':')).expect("a volume");
        let to = root.join(to.trim_end_matches(":ro").trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        must(Command::new("cp").arg("-r").arg(folder.join("docker").join(from)).arg(to));
    }
    program
}

#[test]
fn the_composition_divides_requests_over_sidecars_in_mutual_tls() {
    let text = fs::read_to_string(repository().join("docker/compose.yaml")).expect("it is there");
    let compose: Value = serde_saphyr::from_str(&text).expect("YAML");
    let services = compose["services"].as_object().expect("services");
    let own: Vec<&String> =
        services.iter().filter(|(_, s)| s["network_mode"].is_null()).map(|(name, _)| name).collect();
    let Some(network) = Network::new(own.len()) else { return };
    let hosts: BTreeMap<&str, usize> = own.iter().zip(1..).map(|(name, i)| (name.as_str(), i)).collect();
    let mut names = "127.0.0.1 localhost\n".to_owned();
    names.extend(hosts.iter().map(|(name, i)| format!("{} {name}\n", address(*i))));

    let folder = tempfile::tempdir().expect("a folder");
    must(Command::new("cp").arg("-r").arg(repository().join("docker")).arg(folder.path()));
    let docker = folder.path().join("docker");
    let certificates = docker.join("certificates");
    must(Command::new(docker.join("certificates.sh")).arg(&certificates));
    let mut running = Running(Vec::new());
    let mut checks = Vec::new();
    for (name, service) in services {
        let root = folder.path().join("roots").join(name);
        let program = root_of(service, folder.path(), &root, &names);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("set");
        let said = Dockerfile::of(&program);
        let mode = service["network_mode"].as_str().and_then(|mode| mode.strip_prefix("service:"));
        let host = hosts[mode.unwrap_or(name)];
        let within = |words: &[String]| {
            let mut command = network.within(host, "chroot");
            command.arg(USER).arg(&root).args(words);
            command
        };
        let own = service["command"].as_array();
        let own = own.map(|words| words.iter().map(|word| word.as_str().expect("text").to_owned()).collect());
        let words = [said.entrypoint.clone(), own.unwrap_or(said.command)].concat();
        let log = fs::File::create(folder.path().join(format!("{name}.log"))).expect("made");
        running.0.push(within(&words).stdout(Stdio::null()).stderr(log).spawn().expect("it starts"));
        checks.push((name.clone(), within(&said.health)));
    }
    for (name, check) in &mut checks {
        let log = || fs::read_to_string(folder.path().join(format!("{name}.log"))).unwrap_or_default();
        let is_healthy = (0..300).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            run(check).status.success()
        });
        assert!(is_healthy, "{name} is not healthy: {}", log());
    }

    // From outside, as a client of the gateway.
    let curl = |arguments: &[&str]| run(network.within(0, "curl").args(["-sS", "-m", "10"]).args(arguments));
    let gateway = format!("http://{}:8080/", address(hosts["gateway"]));
    let arms = |count: usize| {
        let output = curl(&[&format!("{gateway}?[1-{count}]")]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ["v1", "v2"].map(|arm| text.lines().filter(|line| *line == arm).count())
    };
    eventually("the gateway serves", || (arms(1).iter().sum::<usize>() == 1).then_some(()));
    assert_eq!(arms(200), [180, 20], "exactly as the weights say");

    // The sidecar takes nobody without a certificate of the gateway's, and the service nobody at all.
    let shop = address(hosts["shop-v1"]);
    assert!(!curl(&[&format!("http://{shop}:9000/")]).status.success(), "the service is on loopback");
    assert!(!String::from_utf8_lossy(&curl(&[&format!("http://{shop}:8443/")]).stdout).contains("v1"));
    let inbound = format!("https://{shop}:8443/");
    assert!(!curl(&["-k", &inbound]).status.success(), "a certificate is wanted");
    let with = |name: &str| {
        let [cert, key] =
            ["pem", "key"].map(|end| certificates.join(format!("{name}.{end}")).display().to_string());
        let output = curl(&["-k", "--cert", &cert, "--key", &key, &inbound]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(with("gateway"), "v1\n");
    assert_eq!(with("shop"), "", "not everybody's of the authority");

    // Saved with other weights, the traffic follows.
    let saved = folder.path().join("roots/control/etc/weir/shop.yaml");
    let text = fs::read_to_string(&saved).expect("read");
    let text = text.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100");
    fs::write(&saved, text).expect("saved");
    eventually("the weights as saved", || (arms(20) == [0, 20]).then_some(()));
}
