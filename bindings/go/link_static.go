//go:build !infer_system

package infer

// The archive that `cargo build --release` leaves in the repository, and the system libraries Rust's standard library
// needs. `rustc --print native-static-libs` lists them.

/*
#cgo CFLAGS: -I${SRCDIR}/../../include
#cgo LDFLAGS: ${SRCDIR}/../../target/release/libinfer.a
#cgo linux LDFLAGS: -lgcc_s -lutil -lrt -lpthread -lm -ldl
#cgo darwin LDFLAGS: -lm
*/
import "C"
