// Throughput does the job of benches/bindings by the Go package: a goroutine per request reads its events.
//
//	throughput MODEL TOKENS PROMPT...
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	infer "github.com/libinfer/libinfer/bindings/go"
)

// Generated at first and not measured, so that buffers have grown and caches are warm.
const warmUp = 4

// stream is what a request brought.
type stream struct {
	tokens []uint32
	text   strings.Builder
	err    error
}

func (s *stream) read(request *infer.Request) {
	for event, err := range request.Events() {
		if err != nil {
			s.err = err
			return
		}
		s.tokens = append(s.tokens, event.Tokens...)
		s.text.WriteString(event.Text)
		if event.Finish != nil && event.Finish.Reason != infer.FinishLength {
			s.err = fmt.Errorf("a request ended by %v", event.Finish.Reason)
		}
	}
}

// complete submits all prompts and reads their events to the end.
func complete(engine *infer.Engine, prompts []string, maxTokens int) ([]stream, error) {
	completions := make([]infer.Completion, len(prompts))
	for i, prompt := range prompts {
		completions[i] = infer.Completion{Prompt: prompt, Options: infer.Options{
			"max_tokens": maxTokens, "temperature": 0, "ignore_end_of_generation": true,
		}}
	}
	requests, err := engine.SubmitBatch(context.Background(), completions)
	if err != nil {
		return nil, err
	}
	streams := make([]stream, len(requests))
	var readers sync.WaitGroup
	for i, request := range requests {
		readers.Add(1)
		go func() {
			defer readers.Done()
			streams[i].read(request)
		}()
	}
	readers.Wait()
	for i := range streams {
		err = errors.Join(err, streams[i].err)
	}
	return streams, err
}

// cpuTime is the processor time of all threads of this process.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	// It fails for no process of one's own.
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// hostTime is the processor time of the threads that are not the library's, whose names begin with "infer".
func hostTime() (time.Duration, error) {
	threads, err := filepath.Glob("/proc/self/task/*")
	var sum time.Duration
	for _, thread := range threads {
		name, nameErr := os.ReadFile(thread + "/comm")
		text, timeErr := os.ReadFile(thread + "/schedstat")
		var ns int64
		_, scanErr := fmt.Sscan(string(text), &ns)
		err = errors.Join(err, nameErr, timeErr, scanErr)
		if !strings.HasPrefix(string(name), "infer") {
			sum += time.Duration(ns)
		}
	}
	return sum, err
}

// checksum is FNV-1a over the ids, each as four bytes, and the text of all requests.
func checksum(streams []stream) uint64 {
	hash := fnv.New64a()
	for i := range streams {
		_ = binary.Write(hash, binary.LittleEndian, streams[i].tokens)
		hash.Write([]byte(streams[i].text.String()))
	}
	return hash.Sum64()
}

func run(path, tokens string, prompts []string) error {
	maxTokens, err := strconv.Atoi(tokens)
	if err != nil {
		return err
	}
	model, err := infer.LoadModel(context.Background(), path, nil)
	if err != nil {
		return err
	}
	defer model.Close()
	engine, err := infer.NewEngine(model, &infer.EngineConfig{Options: infer.Options{"threads": 2, "max_running": 16}})
	if err != nil {
		return err
	}
	defer engine.Close()
	if _, err := complete(engine, prompts, warmUp); err != nil {
		return err
	}

	hostBegin, err := hostTime()
	if err != nil {
		return err
	}
	begin, cpuBegin := time.Now(), cpuTime()
	streams, err := complete(engine, prompts, maxTokens)
	seconds, cpu := time.Since(begin).Seconds(), (cpuTime() - cpuBegin).Seconds()
	if err != nil {
		return err
	}
	hostEnd, err := hostTime()
	if err != nil {
		return err
	}

	n := 0
	for i := range streams {
		n += len(streams[i].tokens)
	}
	fmt.Printf(`{"tokens": %d, "seconds": %.6f, "tokens_per_second": %.1f, "us_per_token": %.3f, `+
		`"cpu_seconds": %.6f, "host_cpu_seconds": %.6f, "checksum": "%016x"}`+"\n",
		n, seconds, float64(n)/seconds, seconds*1e6/float64(n), cpu, (hostEnd - hostBegin).Seconds(), checksum(streams))
	return nil
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: throughput MODEL TOKENS PROMPT...")
		os.Exit(1)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "throughput:", err)
		os.Exit(1)
	}
}
