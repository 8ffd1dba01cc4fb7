//! Filters that in Jinja give Python generators.
//!
//! A generator is true, has no length and no elements by index, is not JSON, and is used up by one pass.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

struct Generator {
    items: Vec<Value>,
    used: AtomicBool,
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        key.is_integer().then_some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        if self.used.swap(true, Ordering::Relaxed) {
            return Enumerator::Empty;
        }
        Enumerator::Values(self.items.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(if self.used.load(Ordering::Relaxed) {
            0
        } else {
            self.items.len()
        })
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether `value` is a generator.
pub(super) fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

fn wrap(value: Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Seq {
        return Ok(value);
    }
    Ok(Value::from_object(Generator {
        items: value.try_iter()?.collect(),
        used: AtomicBool::new(false),
    }))
}

/// An error if `value` is a generator.
pub(super) fn refuse(value: &Value, what: &str) -> Result<(), Error> {
    if !is_generator(value) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("a generator {what}; use the filter 'list' first"),
    ))
}

/// Replaces the filters concerned.
pub(super) fn add_filters(environment: &mut Environment<'_>) {
    let lazy: [(&'static str, Value); 8] = [
        ("map", Value::from_function(filters::map)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("unique", Value::from_function(filters::unique)),
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
    ];
    for (name, original) in lazy {
        environment.add_filter(
            name,
            move |state: &mut State, value: Value, rest: Rest<ValueOrKwargs>| {
                let mut args = vec![value];
                args.extend(rest.into_values());
                wrap(original.call(state, &args)?)
            },
        );
    }
    environment.add_filter("last", |value: Value| {
        refuse(&value, "has no last element")?;
        filters::last(value)
    });
}
