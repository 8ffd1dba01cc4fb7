//go:build infer_system

package infer

// The installed library, found through pkg-config.

// #cgo pkg-config: infer
import "C"
