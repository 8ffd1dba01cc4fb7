package infer_test

import (
	"math"
	"slices"
	"sync"
	"testing"

	infer "github.com/libinfer/libinfer/bindings/go"
)

// eachLevel runs a test with the kernels of every level.
func eachLevel(t *testing.T, test func(t *testing.T, k *infer.Kernels)) {
	for _, level := range infer.KernelLevels() {
		t.Run(level, func(t *testing.T) {
			k, err := infer.NewKernels(level)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if k.Level() != level {
				t.Fatalf("expected level %s, found %s", level, k.Level())
			}
			test(t, k)
		})
	}
}

func wave(n int, step float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Sin(step * float64(i)))
	}
	return x
}

func near(t *testing.T, what string, found, expected float64) {
	t.Helper()
	if !(math.Abs(found-expected) <= 1e-5) {
		t.Fatalf("%s: found %g, expected %g", what, found, expected)
	}
}

func TestKernelLevels(t *testing.T) {
	levels := infer.KernelLevels()
	if len(levels) == 0 || levels[0] != "scalar" {
		t.Fatalf("found %q", levels)
	}
	best, err := infer.NewKernels("auto")
	if err != nil {
		t.Fatal(err)
	}
	defer best.Close()
	if !slices.Contains(levels, best.Level()) {
		t.Fatalf("%s is not one of %q", best.Level(), levels)
	}
	_, err = infer.NewKernels("AVX9")
	wantError(t, err, infer.ErrInvalidArgument, "AVX9", "scalar")
	_, err = infer.NewKernels("scalar\x00")
	wantError(t, err, infer.ErrInvalidArgument, "NUL")
	for _, level := range []string{"sse41", "avx2", "avx_vnni", "avx512", "avx512_bf16", "neon", "neon_dotprod", "i8mm"} {
		if !slices.Contains(levels, level) {
			_, err = infer.NewKernels(level)
			wantError(t, err, infer.ErrUnsupported, level, "scalar")
		}
	}
}

func TestKernelReductions(t *testing.T) {
	eachLevel(t, func(t *testing.T, k *infer.Kernels) {
		for _, n := range []int{0, 1, 7, 16, 33, 100} {
			a, b := wave(n, 0.3), wave(n, 0.7)
			var dot, sum float64
			for i := range a {
				dot += float64(a[i]) * float64(b[i])
				sum += float64(a[i])
			}
			for what, f := range map[string]func(a, b []float32) (float32, error){"dot": k.Dot, "Kahan dot": k.DotKahan} {
				found, err := f(a, b)
				if err != nil {
					t.Fatal(err)
				}
				near(t, what, float64(found), dot)
			}
			found, err := k.Sum(a)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "sum", float64(found), sum)
		}
	})
}

func TestKernelFunctions(t *testing.T) {
	eachLevel(t, func(t *testing.T, k *infer.Kernels) {
		const n = 37
		x, y, out := wave(n, 0.5), wave(n, 1.1), make([]float32, n)
		var total, square, mean, variance float64
		for _, v := range x {
			total += math.Exp(float64(v))
			square += float64(v) * float64(v) / n
			mean += float64(v) / n
		}
		for _, v := range x {
			variance += (float64(v) - mean) * (float64(v) - mean) / n
		}
		for _, test := range []struct {
			name     string
			run      func(x, out []float32) error
			expected func(x, y float64) float64
		}{
			{"add", func(x, out []float32) error { return k.Add(x, y, out) }, func(x, y float64) float64 { return x + y }},
			{"mul", func(x, out []float32) error { return k.Mul(x, y, out) }, func(x, y float64) float64 { return x * y }},
			{"relu", k.ReLU, func(x, _ float64) float64 { return max(x, 0) }},
			{"sigmoid", k.Sigmoid, func(x, _ float64) float64 { return 1 / (1 + math.Exp(-x)) }},
			{"silu", k.SiLU, func(x, _ float64) float64 { return x / (1 + math.Exp(-x)) }},
			{"gelu", k.GELU, func(x, _ float64) float64 {
				return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
			}},
			{"softmax", k.Softmax, func(x, _ float64) float64 { return math.Exp(x) / total }},
			{"RMS norm", func(x, out []float32) error { return k.RMSNorm(x, y, 1e-5, out) },
				func(x, y float64) float64 { return x / math.Sqrt(square+1e-5) * y }},
			{"layer norm", func(x, out []float32) error { return k.LayerNorm(x, y, nil, 1e-5, out) },
				func(x, y float64) float64 { return (x - mean) / math.Sqrt(variance+1e-5) * y }},
			{"layer norm with bias", func(x, out []float32) error { return k.LayerNorm(x, y, y, 1e-5, out) },
				func(x, y float64) float64 { return (x-mean)/math.Sqrt(variance+1e-5)*y + y }},
		} {
			if err := test.run(x, out); err != nil {
				t.Fatal(err)
			}
			for i := range x {
				near(t, test.name, float64(out[i]), test.expected(float64(x[i]), float64(y[i])))
			}
			inPlace := slices.Clone(x)
			if err := test.run(inPlace, inPlace); err != nil || !slices.Equal(inPlace, out) {
				t.Fatalf("%s in place: %v", test.name, err)
			}
		}
	})
}

func TestKernelMatrices(t *testing.T) {
	eachLevel(t, func(t *testing.T, k *infer.Kernels) {
		c := make([]float32, 4)
		err := k.Matmul(2, 2, 2, []float32{1, 2, 3, 4}, []float32{5, 6, 7, 8}, c)
		if err != nil || !slices.Equal(c, []float32{19, 22, 43, 50}) {
			t.Fatal(c, err)
		}
		sums := make([]int32, 2)
		err = k.MatmulInt8(2, 3, 1, []int8{-128, 127, 3, 4, 5, 6}, []int8{127, -128, 1}, sums)
		if err != nil || !slices.Equal(sums, []int32{-128*127 - 127*128 + 3, 4*127 - 5*128 + 6}) {
			t.Fatal(sums, err)
		}
		if err := k.Matmul(0, 5, 0, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKernelRope(t *testing.T) {
	eachLevel(t, func(t *testing.T, k *infer.Kernels) {
		cos, sin := []float32{0, 0}, []float32{1, 1}
		for pairs, expected := range map[infer.RopePairs][]float32{
			infer.RopeAdjacent: {-2, 1, -4, 3, 5},
			infer.RopeNeoX:     {-3, -4, 1, 2, 5},
		} {
			x := []float32{1, 2, 3, 4, 5, 1, 2, 3, 4, 5}
			if err := k.Rope(x, 5, cos, sin, pairs); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(x[:5], expected) || !slices.Equal(x[5:], expected) {
				t.Fatalf("found %v, expected %v twice", x, expected)
			}
		}
	})
}

func TestKernelFormats(t *testing.T) {
	eachLevel(t, func(t *testing.T, k *infer.Kernels) {
		values, out := make([]float32, 32), make([]float32, 32)
		block := []byte{0x00, 0x38} // 0.5 as a half float
		for i := range values {
			values[i] = float32(i-16) / 2
			block = append(block, byte(i-16))
		}
		for name, size := range map[string]int{"F32": 4, "F16": 2, "BF16": 2} {
			row := make([]byte, 32*size)
			if err := k.Quantize(name, values, row); err != nil {
				t.Fatal(err)
			}
			clear(out)
			if err := k.Dequantize(name, row, out); err != nil || !slices.Equal(out, values) {
				t.Fatal(name, out, err)
			}
		}
		if err := k.Dequantize("Q8_0", block, out); err != nil || !slices.Equal(out, values) {
			t.Fatal(out, err)
		}
		wantError(t, k.Dequantize("IQ1_S", make([]byte, 50), make([]float32, 256)), infer.ErrUnsupported, "IQ1_S")
		wantError(t, k.Quantize("Q8_0", values, block), infer.ErrUnsupported, "Q8_0")
	})
}

func TestKernelsRefuseWhatDoesNotFit(t *testing.T) {
	k, err := infer.NewKernels("auto")
	if err != nil {
		t.Fatal(err)
	}
	x := []float32{1, 2, 3, 4}
	_, dot := k.Dot(x, x[:3])
	for i, err := range []error{
		dot,
		k.Add(x, x, x[:3]),
		k.ReLU(x[:3], x[1:]),
		k.LayerNorm(x, x, x[:1], 0, make([]float32, 4)),
		k.Matmul(2, 2, 2, x, x, x),
		k.Matmul(2, 2, 3, x, x, make([]float32, 6)),
		k.Matmul(-2, -2, -2, x, x, make([]float32, 4)),
		k.Rope(x, 3, x[:1], x[1:2], infer.RopeNeoX),
		k.Rope(x, 4, []float32{1}, []float32{0}, 0),
		k.Rope(x, -4, nil, nil, infer.RopeNeoX),
		k.Dequantize("Q8_0", make([]byte, 33), make([]float32, 32)),
		k.Dequantize("Q8_0\x00", make([]byte, 34), make([]float32, 32)),
		k.Quantize("F16", x, make([]byte, 9)),
	} {
		if err == nil {
			t.Fatalf("call %d was accepted", i)
		}
		wantError(t, err, infer.ErrInvalidArgument)
	}
	if !slices.Equal(x, []float32{1, 2, 3, 4}) {
		t.Fatal(x)
	}
	k.Close()
	k.Close()
	_, err = k.Sum(x)
	wantError(t, err, infer.ErrClosed)
}

func TestKernelsAreShared(t *testing.T) {
	k, err := infer.NewKernels("auto")
	if err != nil {
		t.Fatal(err)
	}
	a := wave(10000, 0.01)
	expected, err := k.Dot(a, a)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 100 {
				if found, err := k.Dot(a, a); err != nil || found != expected {
					t.Error(found, err)
				}
			}
		}()
	}
	group.Wait()
	k.Close()
}
