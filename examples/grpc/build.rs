//! Generates the client and the server of `notes.Notes`. The messages are written by hand in `src/proto.rs`, so `protoc` is
//! not needed. With a `.proto` file, use the crate tonic-prost-build.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let add = Method::builder()
        .name("add")
        .route_name("Add")
        .input_type("crate::proto::Note")
        .output_type("crate::proto::Added")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let list = Method::builder()
        .name("list")
        .route_name("List")
        .input_type("crate::proto::ListRequest")
        .output_type("crate::proto::Note")
        .codec_path("tonic_prost::ProstCodec")
        .server_streaming()
        .build();
    Builder::new().compile(&[Service::builder().package("notes").name("Notes").method(add).method(list).build()]);
}
