//! CPU levels: which instruction set the kernels use, detected at run time and clamped by `INFER_CPU_LEVEL`.

use super::KernelError;

/// Instruction-set level of the kernels, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CpuLevel {
    /// Portable code without explicit vector instructions.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// aarch64 vector instructions; the name is reserved, no kernels use it yet.
    Neon,
}

/// The words of `INFER_CPU_LEVEL`.
const WORDS: &str = "auto, scalar, avx2, avx512, neon";

impl CpuLevel {
    /// The highest level this CPU has kernels for.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Scalar
    }

    /// The levels this CPU can run, lowest first.
    pub fn available() -> Vec<Self> {
        let detected = Self::detect();
        [Self::Scalar, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|l| l.rank() <= detected.rank())
            .collect()
    }

    /// The level with this name; `None` for `auto`.
    ///
    /// # Errors
    /// A word that is not `auto` or a level, naming the valid ones.
    pub fn from_name(name: &str) -> Result<Option<Self>, KernelError> {
        match name {
            "auto" => Ok(None),
            "scalar" => Ok(Some(Self::Scalar)),
            "avx2" => Ok(Some(Self::Avx2)),
            "avx512" => Ok(Some(Self::Avx512)),
            "neon" => Ok(Some(Self::Neon)),
            _ => Err(KernelError::UnknownLevel {
                word: name.chars().take(64).collect(),
                valid: WORDS,
            }),
        }
    }

    /// The level to use: [`CpuLevel::detect`], lowered by the environment variable `INFER_CPU_LEVEL` if that is set.
    ///
    /// A level above what the CPU has is lowered to what it has.
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

    /// This level, or the highest this CPU has below it.
    pub fn clamped(self) -> Self {
        let detected = Self::detect();
        // A level of another architecture has nothing below it here but the detected one.
        let foreign = (self == Self::Neon) != (detected == Self::Neon) && self != Self::Scalar;
        if foreign || self.rank() > detected.rank() {
            detected
        } else {
            self
        }
    }

    /// The level's name, as in `INFER_CPU_LEVEL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    fn rank(self) -> u32 {
        match self {
            Self::Scalar => 0,
            Self::Neon | Self::Avx2 => 1,
            Self::Avx512 => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_an_unknown_word_names_the_valid_ones() {
        for l in [CpuLevel::Scalar, CpuLevel::Avx2, CpuLevel::Avx512, CpuLevel::Neon] {
            assert_eq!(CpuLevel::from_name(l.name()).unwrap(), Some(l));
        }
        assert_eq!(CpuLevel::from_name("auto").unwrap(), None);
        let e = CpuLevel::from_name("AVX9").unwrap_err().to_string();
        assert!(
            e.contains("AVX9") && e.contains("avx512") && e.contains("scalar"),
            "{e}"
        );
    }

    #[test]
    fn every_level_is_clamped_to_an_available_one() {
        let available = CpuLevel::available();
        assert_eq!(available.last(), Some(&CpuLevel::detect()));
        for l in [CpuLevel::Scalar, CpuLevel::Avx2, CpuLevel::Avx512, CpuLevel::Neon] {
            assert!(available.contains(&l.clamped()));
        }
        assert_eq!(CpuLevel::Scalar.clamped(), CpuLevel::Scalar);
    }
}
