//! CPU levels: which instruction set the kernels use, detected at run time and clamped by `INFER_CPU_LEVEL`.

use super::KernelError;

/// Instruction-set level of the kernels; those of an architecture lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CpuLevel {
    /// Portable code without explicit vector instructions.
    Scalar,
    /// x86-64 with SSE4.1 and SSSE3.
    Sse41,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-VNNI besides those of [`CpuLevel::Avx2`].
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// x86-64 with AVX512_BF16, products of pairs of bfloat16, besides those of [`CpuLevel::Avx512`].
    Avx512Bf16,
    /// aarch64 with the vector instructions that all have.
    Neon,
    /// aarch64 with dot products of signed bytes.
    NeonDotprod,
    /// aarch64 with the instructions of FEAT_I8MM, dot products of unsigned and signed bytes among them.
    I8mm,
}

/// The words of `INFER_CPU_LEVEL`.
const WORDS: &str = "auto, scalar, sse41, avx2, avx_vnni, avx512, avx512_bf16, neon, neon_dotprod, i8mm";

impl CpuLevel {
    /// Every level of every architecture, those of one architecture lowest first.
    pub const ALL: [Self; 9] = [
        Self::Scalar,
        Self::Sse41,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Bf16,
        Self::Neon,
        Self::NeonDotprod,
        Self::I8mm,
    ];

    /// The highest level this CPU has kernels for.
    pub fn detect() -> Self {
        Self::ALL
            .into_iter()
            .rfind(|l| l.is_available())
            .unwrap_or(Self::Scalar)
    }

    /// The levels this CPU can run, lowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|l| l.is_available()).collect()
    }

    /// Whether this CPU can run the level.
    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
        };
        match self {
            Self::Scalar => true,
            Self::Sse41 => is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3"),
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => avx512(),
            Self::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// Whether this CPU can run the level.
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    fn is_available(self) -> bool {
        use std::arch::is_aarch64_feature_detected;
        let neon = || is_aarch64_feature_detected!("neon");
        match self {
            Self::Scalar => true,
            Self::Neon => neon(),
            Self::NeonDotprod => neon() && is_aarch64_feature_detected!("dotprod"),
            Self::I8mm => neon() && is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    /// Whether this CPU can run the level.
    #[cfg(not(any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", target_endian = "little")
    )))]
    fn is_available(self) -> bool {
        self == Self::Scalar
    }

    /// The level with this name; `None` for `auto`.
    ///
    /// # Errors
    /// A word that is not `auto` or a level, naming the valid ones.
    pub fn from_name(name: &str) -> Result<Option<Self>, KernelError> {
        if name == "auto" {
            return Ok(None);
        }
        match Self::ALL.into_iter().find(|l| l.name() == name) {
            Some(level) => Ok(Some(level)),
            None => Err(KernelError::UnknownLevel {
                word: name.chars().take(64).collect(),
                valid: WORDS,
            }),
        }
    }

    /// The level to use: [`CpuLevel::detect`], lowered by the environment variable `INFER_CPU_LEVEL` if that is set.
    ///
    /// A level that the CPU lacks is lowered to the next it has.
    ///
    /// # Errors
    /// The variable holds an unknown word.
    pub fn selected() -> Result<Self, KernelError> {
        match std::env::var_os("INFER_CPU_LEVEL") {
            None => Ok(Self::detect()),
            Some(word) => Ok(match Self::from_name(&word.to_string_lossy())? {
                Some(level) => level.clamped(),
                None => Self::detect(),
            }),
        }
    }

    /// This level, or the highest this CPU has below it. A level of another architecture has nothing below it here: then
    /// [`CpuLevel::detect`].
    pub fn clamped(self) -> Self {
        let foreign = if cfg!(target_arch = "aarch64") {
            self.is_x86()
        } else {
            self.is_aarch64()
        };
        let found = Self::ALL
            .into_iter()
            .rfind(|l| *l <= self && !foreign && l.is_available());
        found.unwrap_or_else(Self::detect)
    }

    /// The level's name, as in `INFER_CPU_LEVEL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Sse41 => "sse41",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx_vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512_bf16",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon_dotprod",
            Self::I8mm => "i8mm",
        }
    }

    fn is_x86(self) -> bool {
        self > Self::Scalar && self <= Self::Avx512Bf16
    }

    fn is_aarch64(self) -> bool {
        self >= Self::Neon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_an_unknown_word_names_the_valid_ones() {
        for l in CpuLevel::ALL {
            assert_eq!(CpuLevel::from_name(l.name()).unwrap(), Some(l));
        }
        assert_eq!(CpuLevel::from_name("auto").unwrap(), None);
        let e = CpuLevel::from_name("AVX9").unwrap_err().to_string();
        let names = CpuLevel::ALL.map(CpuLevel::name).join(", ");
        assert!(
            e.contains("AVX9") && e.ends_with(&format!("auto, {names}")),
            "{e}"
        );
    }

    #[test]
    fn every_level_is_clamped_to_the_next_available_one() {
        let available = CpuLevel::available();
        assert!(available.is_sorted() && available[0] == CpuLevel::Scalar);
        assert_eq!(available.last(), Some(&CpuLevel::detect()));
        for l in CpuLevel::ALL {
            let clamped = l.clamped();
            assert!(available.contains(&clamped));
            if available.contains(&l) {
                assert_eq!(clamped, l);
            } else if l.is_x86() == CpuLevel::detect().is_x86() {
                assert!(clamped < l && !available.iter().any(|a| *a > clamped && *a < l));
            }
        }
    }
}
