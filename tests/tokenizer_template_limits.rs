//! Chat templates from strangers: endless, recursive, huge and wrong ones are errors.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; skipped ones say so"
)]

use infer::tokenizer::{ChatInput, ChatTemplate, TemplateError};
use serde_json::json;

fn render(source: &str) -> Result<String, TemplateError> {
    let messages = json!([{"role": "user", "content": "Hi 'é' <b>"}]);
    let mut template = ChatTemplate::new(source, "<s>", "</s>")?;
    template.set_clock(|format| format!("at {format}"));
    template.render(&ChatInput::new(&messages))
}

// Slow: runs until the fuel is used up.
#[test]
fn an_endless_template_runs_out_of_fuel() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(matches!(render(source), Err(TemplateError::OutOfFuel { .. })));
    let source = "{% macro f() %}{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}{% endmacro %}{% set x = f() %}";
    assert!(matches!(render(source), Err(TemplateError::OutOfFuel { .. })));
}

#[test]
fn a_template_that_calls_itself_for_ever_is_an_error() {
    let e = render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").unwrap_err();
    assert!(matches!(e, TemplateError::Render(_)), "{e}");
    let e = render("{% include 'chat_template' %}").unwrap_err();
    assert!(
        matches!(e, TemplateError::Render(_) | TemplateError::Syntax(_)),
        "{e}"
    );
    let nested = format!(
        "{}{}",
        "{% if true %}".repeat(10_000),
        "{% endif %}".repeat(10_000)
    );
    assert!(matches!(render(&nested), Err(TemplateError::Syntax(_))));
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(matches!(render(&nested), Err(TemplateError::Syntax(_))));
    let nested = format!("{{{{ {}1{} }}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(render(&nested), Err(TemplateError::Syntax(_))));
}

#[test]
fn a_huge_template_and_a_huge_output_are_errors() {
    let e = render(&"x".repeat((1 << 20) + 1)).unwrap_err();
    assert_eq!(
        e.to_string(),
        "cannot use the chat template: it has 1048577 bytes, at most 1048576 are accepted"
    );
    let source = "{% set x = 'a' * 100000 %}{% for i in range(99999) %}{{ x }}{% endfor %}";
    assert!(matches!(render(source), Err(TemplateError::OutputTooLong { .. })));
}

#[test]
fn mistakes_name_their_line_and_refusals_their_reason() {
    let e = render("a\n{% if %}").unwrap_err();
    assert!(
        matches!(&e, TemplateError::Syntax(m) if m.contains("line 2")),
        "{e}"
    );
    let e = render("a\n\n{{ nope.deeper }}").unwrap_err();
    assert!(
        matches!(&e, TemplateError::Render(m) if m.contains("line 3")),
        "{e}"
    );
    let e = render("{{ raise_exception('Only ' + messages[0].role) }}").unwrap_err();
    assert_eq!(
        e.to_string(),
        "the chat template refuses these messages: Only user"
    );
}

#[test]
fn values_are_written_as_python_writes_them() {
    for (source, expected) in [
        (
            "{{ [1, 'a', none, true, 2.0, 1e20] }}",
            "[1, 'a', None, True, 2.0, 1e+20]",
        ),
        ("{{ {'a': \"it's\", 'b': (1,)} }}", "{'a': \"it's\", 'b': (1,)}"),
        ("{{ messages[0].content | tojson }}", "\"Hi 'é' <b>\""),
        (
            "{{ {'b': 1, 'a': [], 'c': [1.5e-7]} | tojson(indent=1) }}",
            "{\n \"b\": 1,\n \"a\": [],\n \"c\": [\n  1.5e-07\n ]\n}",
        ),
        (
            "{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
            "{\"a\":\"\\u00e9\",\"b\":1}",
        ),
        (
            "{{ 'a b  c'.split() }}{{ 'abc'[::-1] }}{{ [][::-1] }}{{ [1, 2][::-1][0] }}",
            "['a', 'b', 'c']cba[]2",
        ),
        ("{{ strftime_now('%d') }}", "at %d"),
        (
            "{% generation %}a\n{% endgeneration %}\n  {% if true %}\nb\n  {% endif %}\n",
            "a\nb\n",
        ),
        (
            "{{ d is defined }}{{ 'x' is sequence }}{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}",
            "FalseTrue<s></s>True",
        ),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn generators_are_used_up_and_are_not_json() {
    let source = "{% set xs = messages | map(attribute='role') %}{% for x in xs %}{{ x }}{% endfor %}{% for x in xs %}{{ x }}{% endfor %}{{ 1 if xs }}";
    assert_eq!(render(source).unwrap(), "user1");
    assert!(render("{{ messages | map(attribute='role') | tojson }}").is_err());
    assert!(render("{{ messages | map(attribute='role') | length }}").is_err());
}

#[test]
fn slices_that_the_engine_fails_on_do_not_reach_the_caller_as_panics() {
    for source in [
        "{{ [][5::-2] }}",
        "{{ [1, 2, 3][0:2:-1] }}",
        "{{ ''[2::-1] }}",
        "{{ [1][-9:9:-3] }}",
    ] {
        let _ = render(source);
    }
}
