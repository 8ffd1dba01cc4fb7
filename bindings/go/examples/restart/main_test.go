package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	infer "github.com/libinfer/libinfer/bindings/go"
)

const modelPath = "../../../../models/tolstoy-3m-Q8_0.gguf"

// TestMain runs the example itself in the processes that the tests start.
func TestMain(m *testing.M) {
	if directory := os.Getenv("RESTART_DIRECTORY"); directory != "" {
		if err := run(context.Background(), directory, modelPath, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// outcome is what a process printed.
type outcome struct {
	text              string
	prompt, cached    int
	held, found, read int
	damaged           int
}

func restart(t *testing.T, directory string) outcome {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "RESTART_DIRECTORY="+directory)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var o outcome
	at := strings.LastIndex(string(out), "\nprompt: ")
	if at < 0 {
		t.Fatalf("unexpected output %q", out)
	}
	o.text = string(out[:at])
	if _, err := fmt.Sscanf(string(out[at:]), "\nprompt: %d tokens, %d of them cached\n"+
		"cold tier: works, holds %d blocks, found %d tokens, read %d blocks, %d damaged\n",
		&o.prompt, &o.cached, &o.held, &o.found, &o.read, &o.damaged); err != nil {
		t.Fatalf("unexpected output %q: %v", out, err)
	}
	return o
}

func TestASecondProcessReadsWhatTheFirstComputed(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "cold")
	first := restart(t, directory)
	if first.cached != 0 || first.held != 0 || first.prompt < 200 || len(first.text) < 20 {
		t.Fatalf("unexpected first run %+v", first)
	}
	// Whole blocks of 32 tokens; the last token of a prompt is computed in any case.
	whole := (first.prompt - 1) / 32 * 32
	want := first
	want.cached, want.found, want.read = whole, whole, whole/32
	second := restart(t, directory)
	want.held = second.held
	if second != want || second.held < want.read {
		t.Fatalf("expected %+v, found %+v", want, second)
	}

	// What was damaged is computed again.
	damage(t, directory)
	third := restart(t, directory)
	if third.text != first.text || third.damaged != 1 || third.cached >= whole {
		t.Fatalf("expected the text of %+v and one damaged block, found %+v", first, third)
	}
	if err := os.RemoveAll(directory); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(directory))
	if err != nil || len(left) != 0 {
		t.Fatalf("left beside the directory: %v, %v", left, err)
	}
}

// damage flips the byte in the middle of those of every slab that are not zero: a slab has room for more than it holds.
func damage(t *testing.T, directory string) {
	t.Helper()
	slabs, err := filepath.Glob(filepath.Join(directory, "slab-*"))
	if err != nil || len(slabs) == 0 {
		t.Fatalf("no slabs in %s, %v", directory, err)
	}
	for _, slab := range slabs {
		bytes, err := os.ReadFile(slab)
		if err != nil {
			t.Fatal(err)
		}
		var used []int
		for at, value := range bytes {
			if value != 0 {
				used = append(used, at)
			}
		}
		bytes[used[len(used)/2]] ^= 1
		if err := os.WriteFile(slab, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADirectoryThatCannotBeIsNamed(t *testing.T) {
	err := run(context.Background(), "/dev/null/cold", modelPath, io.Discard)
	var detail *infer.Error
	if !errors.As(err, &detail) || !strings.Contains(err.Error(), "/dev/null/cold") {
		t.Fatalf("expected an error that names the directory, found %v", err)
	}
}
