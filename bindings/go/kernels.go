package infer

// #include <stdlib.h>
// #include "infer.h"
import "C"

import (
	"runtime"
	"strings"
	"unsafe"
)

// Kernels are vector and matrix operations of one CPU level, on slices of yours. They may be used from any number of
// goroutines at the same time. Lengths that do not fit together are [ErrInvalidArgument]. An output may be an input
// where the documentation of a method says so; any other overlap is an error.
type Kernels struct {
	handle *handle[*C.infer_kernels]
}

// RopePairs says which values of a head [Kernels.Rope] turns together.
type RopePairs uint32

const (
	// RopeAdjacent turns neighbours: the values 2i and 2i + 1.
	RopeAdjacent = RopePairs(C.INFER_ROPE_ADJACENT)
	// RopeNeoX turns halves: the values i and i + n, n being the number of pairs.
	RopeNeoX = RopePairs(C.INFER_ROPE_NEOX)
)

// KernelLevels lists the levels that this CPU and this build have, lowest first.
func KernelLevels() []string {
	var levels []string
	for {
		name := C.infer_kernels_level_at(C.size_t(len(levels)))
		if name == nil {
			return levels
		}
		levels = append(levels, C.GoString(name))
	}
}

// cName copies a word for the library.
func cName(what, word string) (*C.char, error) {
	if strings.ContainsRune(word, 0) {
		return nil, newError(ErrInvalidArgument, "%s contains a NUL byte: %q", what, word)
	}
	return C.CString(word), nil
}

// NewKernels gives the kernels of a level: "auto", or one of [KernelLevels]. It fails with [ErrUnsupported] for a level
// this CPU does not have.
func NewKernels(level string) (*Kernels, error) {
	word, err := cName("the level", level)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(word))
	var ptr *C.infer_kernels
	var detail *C.infer_error
	if err := check(C.infer_kernels_create(word, &ptr, &detail), &detail); err != nil {
		return nil, err
	}
	k := &Kernels{&handle[*C.infer_kernels]{ptr: ptr, what: "kernels object", free: func(p *C.infer_kernels) {
		C.infer_kernels_free(p)
	}}}
	runtime.AddCleanup(k, (*handle[*C.infer_kernels]).close, k.handle)
	return k, nil
}

// Close frees the kernels.
func (k *Kernels) Close() error {
	k.handle.close()
	runtime.KeepAlive(k)
	return nil
}

// Level is the level, never "auto"; "" after Close.
func (k *Kernels) Level() string {
	level := ""
	_ = k.handle.use(func(p *C.infer_kernels) error {
		level = C.GoString(C.infer_kernels_level(p))
		return nil
	})
	runtime.KeepAlive(k)
	return level
}

// compute runs one function of the library.
func (k *Kernels) compute(f func(p *C.infer_kernels, detail **C.infer_error) C.infer_status) error {
	defer runtime.KeepAlive(k)
	return k.handle.use(func(p *C.infer_kernels) error {
		var detail *C.infer_error
		return check(f(p, &detail), &detail)
	})
}

// sameLength fails unless all slices have n elements.
func sameLength(n int, lengths ...int) error {
	for _, length := range lengths {
		if length != n {
			return newError(ErrInvalidArgument, "expected slices of the same length, found %d and %d elements", n, length)
		}
	}
	return nil
}

func floats(x []float32) *C.float {
	return (*C.float)(unsafe.SliceData(x))
}

// Dot is the sum of a[i] * b[i].
func (k *Kernels) Dot(a, b []float32) (float32, error) {
	var out C.float
	err := sameLength(len(a), len(b))
	if err == nil {
		err = k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
			return C.infer_kernels_dot(p, floats(a), floats(b), C.size_t(len(a)), &out, detail)
		})
	}
	return float32(out), err
}

// DotKahan is the sum of a[i] * b[i], with an error that does not grow with the length.
func (k *Kernels) DotKahan(a, b []float32) (float32, error) {
	var out C.float
	err := sameLength(len(a), len(b))
	if err == nil {
		err = k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
			return C.infer_kernels_dot_kahan(p, floats(a), floats(b), C.size_t(len(a)), &out, detail)
		})
	}
	return float32(out), err
}

// Sum is the sum of x[i].
func (k *Kernels) Sum(x []float32) (float32, error) {
	var out C.float
	err := k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_sum(p, floats(x), C.size_t(len(x)), &out, detail)
	})
	return float32(out), err
}

// checkMatrices fails unless the lengths are those of m x k, k x n and m x n values.
func checkMatrices(m, k, n, a, b, c int) error {
	fits := func(x, y, length int) bool {
		if x == 0 || y == 0 {
			return length == 0
		}
		return length%x == 0 && length/x == y
	}
	if m < 0 || k < 0 || n < 0 || !fits(m, k, a) || !fits(k, n, b) || !fits(m, n, c) {
		return newError(ErrInvalidArgument, "expected matrices of %d x %d, %d x %d and %d x %d, found %d, %d and %d elements",
			m, k, k, n, m, n, a, b, c)
	}
	return nil
}

// Matmul multiplies a matrix of m x k values by one of k x n, row by row, and writes m x n values to c, which may not
// overlap the others.
func (k *Kernels) Matmul(m, depth, n int, a, b, c []float32) error {
	if err := checkMatrices(m, depth, n, len(a), len(b), len(c)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_matmul(p, floats(a), floats(b), C.size_t(m), C.size_t(depth), C.size_t(n), floats(c), detail)
	})
}

// MatmulInt8 is Matmul for signed bytes, exactly; depth is at most 131071.
func (k *Kernels) MatmulInt8(m, depth, n int, a, b []int8, c []int32) error {
	if err := checkMatrices(m, depth, n, len(a), len(b), len(c)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_matmul_i8(p, (*C.int8_t)(unsafe.SliceData(a)), (*C.int8_t)(unsafe.SliceData(b)),
			C.size_t(m), C.size_t(depth), C.size_t(n), (*C.int32_t)(unsafe.SliceData(c)), detail)
	})
}

// Add writes a[i] + b[i] to out, which may be a or b.
func (k *Kernels) Add(a, b, out []float32) error {
	if err := sameLength(len(out), len(a), len(b)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_add(p, floats(a), floats(b), C.size_t(len(out)), floats(out), detail)
	})
}

// Mul writes a[i] * b[i] to out, which may be a or b.
func (k *Kernels) Mul(a, b, out []float32) error {
	if err := sameLength(len(out), len(a), len(b)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_mul(p, floats(a), floats(b), C.size_t(len(out)), floats(out), detail)
	})
}

// ReLU writes max(x[i], 0) to out, which may be x.
func (k *Kernels) ReLU(x, out []float32) error {
	if err := sameLength(len(out), len(x)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_relu(p, floats(x), C.size_t(len(out)), floats(out), detail)
	})
}

// SiLU writes x[i] / (1 + exp(-x[i])) to out, which may be x.
func (k *Kernels) SiLU(x, out []float32) error {
	if err := sameLength(len(out), len(x)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_silu(p, floats(x), C.size_t(len(out)), floats(out), detail)
	})
}

// GELU writes the Gaussian error unit of x[i] in its tanh form to out, which may be x.
func (k *Kernels) GELU(x, out []float32) error {
	if err := sameLength(len(out), len(x)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_gelu(p, floats(x), C.size_t(len(out)), floats(out), detail)
	})
}

// Sigmoid writes 1 / (1 + exp(-x[i])) to out, which may be x.
func (k *Kernels) Sigmoid(x, out []float32) error {
	if err := sameLength(len(out), len(x)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_sigmoid(p, floats(x), C.size_t(len(out)), floats(out), detail)
	})
}

// Softmax writes exp(x[i]) / the sum of exp(x[j]) to out, which may be x.
func (k *Kernels) Softmax(x, out []float32) error {
	if err := sameLength(len(out), len(x)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_softmax(p, floats(x), C.size_t(len(out)), floats(out), detail)
	})
}

// RMSNorm writes x[i] / sqrt(mean of x[j]^2 + eps) * weight[i] to out, which may be x.
func (k *Kernels) RMSNorm(x, weight []float32, eps float32, out []float32) error {
	if err := sameLength(len(out), len(x), len(weight)); err != nil {
		return err
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_rms_norm(p, floats(x), floats(weight), C.size_t(len(out)), C.float(eps), floats(out), detail)
	})
}

// LayerNorm writes (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i] to out, which may be x. A nil bias is none.
func (k *Kernels) LayerNorm(x, weight, bias []float32, eps float32, out []float32) error {
	if err := sameLength(len(out), len(x), len(weight)); err != nil {
		return err
	}
	if bias != nil {
		if err := sameLength(len(out), len(bias)); err != nil {
			return err
		}
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_layer_norm(p, floats(x), floats(weight), floats(bias), C.size_t(len(out)), C.float(eps), floats(out), detail)
	})
}

// Rope turns, in place, the first 2 * len(cos) values of each row of headDim values of x, pair by pair: (a, b) becomes
// (a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]).
func (k *Kernels) Rope(x []float32, headDim int, cos, sin []float32, pairs RopePairs) error {
	if err := sameLength(len(cos), len(sin)); err != nil {
		return err
	}
	heads := 0
	if headDim > 0 {
		heads = len(x) / headDim
	}
	if headDim < 0 || heads*headDim != len(x) {
		return newError(ErrInvalidArgument, "expected rows of %d elements, found %d elements", headDim, len(x))
	}
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_rope(p, floats(x), C.size_t(heads), C.size_t(headDim), floats(cos), floats(sin),
			C.size_t(len(cos)), C.uint32_t(pairs), detail)
	})
}

// Dequantize writes the values of the blocks in src to out. The type is that of a GGUF tensor, like "Q4_K".
func (k *Kernels) Dequantize(typeName string, src []byte, out []float32) error {
	name, err := cName("the type", typeName)
	if err != nil {
		return err
	}
	defer C.free(unsafe.Pointer(name))
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_dequantize(p, name, (*C.uint8_t)(unsafe.SliceData(src)), C.size_t(len(src)),
			C.size_t(len(out)), floats(out), detail)
	})
}

// Quantize writes x as a row of a GGUF tensor of type "F32", "F16" or "BF16".
func (k *Kernels) Quantize(typeName string, x []float32, out []byte) error {
	name, err := cName("the type", typeName)
	if err != nil {
		return err
	}
	defer C.free(unsafe.Pointer(name))
	return k.compute(func(p *C.infer_kernels, detail **C.infer_error) C.infer_status {
		return C.infer_kernels_quantize(p, name, floats(x), C.size_t(len(x)), (*C.uint8_t)(unsafe.SliceData(out)),
			C.size_t(len(out)), detail)
	})
}
