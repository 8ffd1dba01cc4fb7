//! Every item of the header says what it is, and every function who may call it, what it answers and how long what it
//! gives lives.

use crate::header::{Header, Item, Kind, Member, Signature};

/// What an item's comment lacks; nothing for one that is complete.
pub fn lacks(item: &Item) -> Vec<String> {
    let mut lacks = Vec::new();
    let comment = item.comment.as_str();
    let mut require = |holds: bool, what: &str| {
        if !holds {
            lacks.push(format!("{}: {what}", item.name));
        }
    };
    require(is_a_sentence(comment), "a comment that ends with a full stop");
    let labelled = |label: &str| comment.lines().any(|line| line.starts_with(label));
    match &item.kind {
        Kind::Macro(_) => {}
        Kind::Enum(members) => {
            require(!members.is_empty(), "its constants");
            all_are_described(members, &mut require);
        }
        Kind::Struct(fields) => {
            all_are_described(fields, &mut require);
            let lends = fields.iter().any(|field| field.of.ends_with('*'));
            require(!lends || says_how_long(comment), "how long its pointers live");
        }
        Kind::Handle | Kind::Callback(_) => require(labelled("Threads: "), "a line \"Threads:\""),
        Kind::Function(signature) => {
            require(labelled("Threads: "), "a line \"Threads:\"");
            if signature.result == "infer_status" {
                require(labelled("Errors: "), "a line \"Errors:\"");
            }
            ownership(item, signature, &mut require);
        }
    }
    lacks
}

/// What comes out of a function belongs to somebody and lives for some time.
fn ownership(item: &Item, signature: &Signature, require: &mut impl FnMut(bool, &str)) {
    let comment = item.comment.as_str();
    if item.name.ends_with("_free") {
        require(comment.contains("NULL is ignored"), "that NULL is ignored");
    }
    let handles = signature
        .parameters
        .iter()
        .filter(|p| p.name != "error")
        .filter_map(|p| p.of.strip_suffix(" **"))
        .chain(signature.result.strip_suffix(" *"))
        .filter(|of| of.starts_with("infer_"));
    for handle in handles {
        require(
            comment.contains(&format!("{handle}_free()")),
            "which function frees it",
        );
    }
    let lends = |of: &str| matches!(of, "const char *" | "const char **");
    if lends(&signature.result) || signature.parameters.iter().any(|p| p.of == "const char **") {
        require(says_how_long(comment), "how long the text lives");
    }
    for parameter in &signature.parameters {
        match (parameter.of.as_str(), parameter.name.as_str()) {
            ("char *", "buffer") => {
                require(comment.to_lowercase().contains("cop"), "that the text is copied")
            }
            ("infer_event *" | "infer_model_info *" | "infer_option_info *", _) => {
                require(says_how_long(comment), "how long what the struct points to lives");
            }
            ("infer_free_callback", name) => require(comment.contains(name), "when the user data is freed"),
            _ => {}
        }
    }
}

fn is_a_sentence(comment: &str) -> bool {
    comment.len() > 4 && comment.ends_with('.')
}

fn says_how_long(comment: &str) -> bool {
    comment
        .split(|c: char| !c.is_alphabetic())
        .any(|word| word == "live" || word == "lives")
}

fn all_are_described(members: &[Member], require: &mut impl FnMut(bool, &str)) {
    for member in members {
        require(
            is_a_sentence(&member.comment),
            &format!("a comment at {}", member.name),
        );
    }
}

#[test]
fn every_item_is_documented() {
    let header = Header::generated();
    assert!(header.items.len() > 100, "the header was not read as a whole");
    let lacks: Vec<String> = header.items.iter().flat_map(lacks).collect();
    assert!(lacks.is_empty(), "comments lack:\n{}", lacks.join("\n"));
}

#[test]
fn a_comment_that_says_too_little_is_found() {
    let planted = "/*\n * About it.\n */\n\n\
        /* A number. */\n#define INFER_ONE 1\n\n#define INFER_TWO 2\n\n\
        /* What it is. */\ntypedef int32_t infer_kind;\nenum {\n  INFER_A = 1,\n  /* The second. */\n  INFER_B = 2,\n};\n\n\
        /* A thing. */\ntypedef struct infer_thing infer_thing;\n\n\
        /* A record. */\ntypedef struct {\n  /* Its size. */\n  uint32_t struct_size;\n  const char *text;\n} infer_record;\n\n\
        /* Is called. */\ntypedef void (*infer_callback)(void *user_data);\n\n\
        /* Makes a thing. */\ninfer_status infer_thing_create(infer_thing **thing,\n                    infer_error **error);\n\n\
        /*\n * Makes another. Free it with infer_thing_free().\n *\n * Errors: none.\n * Threads: any.\n */\n\
        infer_status infer_thing_copy(infer_thing **thing, infer_error **error);\n\n\
        /*\n * Frees a thing.\n *\n * Threads: any.\n */\nvoid infer_thing_free(infer_thing *thing);\n\n\
        /*\n * Its name.\n *\n * Threads: any.\n */\nconst char *infer_thing_name(const infer_thing *thing);\n";
    let lacks: Vec<String> = Header::parse(planted).items.iter().flat_map(lacks).collect();
    assert_eq!(
        lacks,
        [
            "INFER_TWO: a comment that ends with a full stop",
            "infer_kind: a comment at INFER_A",
            "infer_thing: a line \"Threads:\"",
            "infer_record: a comment at text",
            "infer_record: how long its pointers live",
            "infer_callback: a line \"Threads:\"",
            "infer_thing_create: a line \"Threads:\"",
            "infer_thing_create: a line \"Errors:\"",
            "infer_thing_create: which function frees it",
            "infer_thing_free: that NULL is ignored",
            "infer_thing_name: how long the text lives",
        ]
    );
}
