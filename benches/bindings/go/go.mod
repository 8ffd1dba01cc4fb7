module github.com/libinfer/libinfer/benches/bindings/go

go 1.24

require github.com/libinfer/libinfer/bindings/go v0.0.0

replace github.com/libinfer/libinfer/bindings/go => ../../../bindings/go
