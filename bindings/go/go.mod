module github.com/libinfer/libinfer/bindings/go

go 1.24
