package main

import (
	"context"
	"io"
	"os"
	"regexp"
	"testing"

	infer "github.com/libinfer/libinfer/bindings/go"
)

func TestHelloPrintsTextAndHowItEnded(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = write
	err = run(context.Background(), "../../../../models/tolstoy-3m-Q8_0.gguf", "War is")
	os.Stdout = stdout
	write.Close()
	out, _ := io.ReadAll(read)
	if err != nil || !regexp.MustCompile(`(?s)^.{20,}\n\d+ tokens, \w+, \d+ tokens/s\n$`).Match(out) {
		t.Errorf("unexpected output %q, %v", out, err)
	}
}

func TestHelloNamesTheFileItCannotOpen(t *testing.T) {
	err := run(context.Background(), "/no/such.gguf", "x")
	if detail, ok := err.(*infer.Error); !ok || detail.Status != infer.ErrIO {
		t.Errorf("expected ErrIO, found %v", err)
	}
}
