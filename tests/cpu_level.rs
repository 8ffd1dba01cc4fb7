//! `INFER_CPU_LEVEL`, seen by a process of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests stop at the first error")]

use infer::kernel::{CpuLevel, Kernels};

const CHILD: &str = "LIBINFER_TEST_CHILD_LEVEL";

/// What `CpuLevel::selected` answers under this value of the variable.
fn selected(value: Option<&str>) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "the_variable_lowers_the_level_and_never_raises_it",
        "--nocapture",
    ]);
    command.env(CHILD, "1").env_remove("INFER_CPU_LEVEL");
    if let Some(value) = value {
        command.env("INFER_CPU_LEVEL", value);
    }
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let at = text.find("selected: ").unwrap() + 10;
    text[at..].lines().next().unwrap().to_string()
}

#[test]
fn the_variable_lowers_the_level_and_never_raises_it() {
    if std::env::var_os(CHILD).is_some() {
        match CpuLevel::selected() {
            Ok(level) => println!("selected: {}", level.name()),
            Err(e) => println!("selected: {e}"),
        }
        return;
    }
    let detected = CpuLevel::detect().name();
    assert_eq!(selected(None), detected);
    assert_eq!(selected(Some("auto")), detected);
    assert_eq!(selected(Some("scalar")), "scalar");
    for level in CpuLevel::ALL {
        assert_eq!(selected(Some(level.name())), level.clamped().name());
    }
    for word in ["", "AVX2", "sse"] {
        let e = selected(Some(word));
        assert!(
            e.contains(&format!("unknown CPU level \"{word}\"")) && e.contains("auto, scalar, sse41, avx2"),
            "{e}"
        );
    }
}

#[test]
fn every_available_level_has_kernels_and_no_other_has() {
    for level in CpuLevel::ALL {
        let kernels = Kernels::for_level(level);
        assert_eq!(kernels.is_some(), CpuLevel::available().contains(&level));
        assert!(kernels.is_none_or(|k| k.level() == level));
    }
}
