//! The committed code in `src/gen` is what the `.proto` files say.
//! `WEIR_UPDATE_GEN=1 cargo test -p xds-proto --test generated` writes it again.

use std::path::{Path, PathBuf};
use std::{fs, io};

use prost_types::FileDescriptorSet;

fn proto_files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn compile(root: &Path) -> FileDescriptorSet {
    let mut files = Vec::new();
    proto_files(root, &mut files).expect("the proto folder is readable");
    let mut compiler = protox::Compiler::new([root]).expect("the include path exists");
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(files).expect("every file compiles");
    compiler.file_descriptor_set()
}

fn generate(root: &Path, out: &Path) {
    let mut files = Vec::new();
    proto_files(root, &mut files).expect("the proto folder is readable");
    let mut compiler = protox::Compiler::new([root]).expect("the include path exists");
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files).expect("every file compiles");
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .out_dir(out)
        .include_file("mod.rs")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)
        .expect("code is generated");
    let set = prost::Message::encode_to_vec(&compile(root));
    fs::write(out.join("descriptors.bin"), set).expect("descriptors are written");
}

#[test]
fn committed_code_equals_what_the_proto_files_generate() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = here.join("src/gen");
    let fresh = tempfile::tempdir().expect("a temporary folder");
    generate(&here.join("proto"), fresh.path());

    if std::env::var_os("WEIR_UPDATE_GEN").is_some() {
        let _ = fs::remove_dir_all(&committed);
        fs::create_dir_all(&committed).expect("src/gen is made");
        for entry in fs::read_dir(fresh.path()).expect("generated files") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, committed.join(path.file_name().expect("a name"))).expect("a copy");
        }
        return;
    }
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&committed), names(fresh.path()), "set WEIR_UPDATE_GEN=1 to write src/gen again");
    for name in names(fresh.path()) {
        let same = fs::read(committed.join(&name)).expect("committed")
            == fs::read(fresh.path().join(&name)).expect("fresh");
        assert!(same, "src/gen/{} is stale; set WEIR_UPDATE_GEN=1 to write it again", name.display());
    }
}
