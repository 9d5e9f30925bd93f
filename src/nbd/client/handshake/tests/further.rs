//! Meta contexts that a client selects besides those that it needs.

use alloc::format;

use super::*;

fn wish(names: &[&str], most_offered: usize) -> FurtherContexts {
    FurtherContexts { names: names.iter().map(|name| (*name).into()).collect(), most_offered }
}

/// SET_META_CONTEXT for export `d`.
fn select(names: &[&str]) -> Vec<u8> {
    let queries: Vec<u8> = names.iter().flat_map(|name| string(name)).collect();
    option(10, &[string("d"), (names.len() as u32).to_be_bytes().to_vec(), queries].concat())
}

/// The answer to that: all of them.
fn selected(names: &[&str]) -> Vec<u8> {
    let contexts = (1..).zip(names).flat_map(|(id, name)| context(10, id, name));
    [contexts.collect(), reply(10, ACK, &[])].concat()
}

fn listed(names: &[&str]) -> Vec<u8> {
    let contexts = names.iter().flat_map(|name| context(9, 0, name));
    [contexts.collect(), reply(9, ACK, &[])].concat()
}

/// The names of what is selected in the end, behind these questions and answers.
fn entered(further: FurtherContexts, script: &[(Vec<u8>, Vec<u8>)]) -> Vec<String> {
    let first = (first(option(11, &[])), reply(11, ACK, &[]));
    let go_on = (option(7, &info_query("d")), [export_info(7), reply(7, ACK, &[])].concat());
    let script = [&[first], script, &[go_on]].concat();
    let client = ClientHandshake::new(go("d", &["base:allocation"])).unwrap().selecting(further);
    match play_as(client, &greeting(3), &script, 7) {
        Ok(HandshakeOutcome::Transmission(entered)) => {
            entered.contexts.into_iter().map(|context| context.name).collect()
        }
        other => panic!("it enters the transmission phase: {other:?}"),
    }
}

fn list() -> Vec<u8> {
    option(9, &[string("d"), vec![0; 4]].concat())
}

#[test]
fn what_is_offered_is_selected_up_to_a_number() {
    let all = ["base:allocation", "x:1", "i", "x:2"];
    let wanted = ["base:allocation", "i", "x:1", "x:2"];
    let script = [(list(), listed(&all)), (select(&wanted), selected(&wanted))];
    assert_eq!(entered(wish(&["i"], 9), &script), wanted);
    let wanted = ["base:allocation", "i", "x:1"];
    let script = [(list(), listed(&all)), (select(&wanted), selected(&wanted))];
    assert_eq!(entered(wish(&["i"], 1), &script), wanted);
}

#[test]
fn a_long_list_is_not_kept() {
    let names: Vec<String> = (0..5000).map(|number| format!("x:{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Those that are asked for by name may stand behind all the others.
    let wanted = [&["base:allocation", "i"], &names[..3]].concat();
    let script = [(list(), listed(&names)), (select(&wanted), selected(&wanted))];
    assert_eq!(entered(wish(&["i"], 3), &script), wanted);
    let mut kept = Script::new(go("d", &["base:allocation"]), ReplyMode::Extended).unwrap();
    kept.select(wish(&["i"], 3));
    names.iter().for_each(|name| kept.collect(OptionReply::MetaContext { id: 0, name: (*name).into() }));
    assert_eq!(kept.kept_contexts(), 3 + 2);
}

#[test]
fn without_a_list_the_names_are_asked_for_alone() {
    let wanted = ["base:allocation", "i"];
    let script = [(list(), reply(9, UNSUP, &[])), (select(&wanted), selected(&wanted))];
    assert_eq!(entered(wish(&["i"], 9), &script), wanted);
    let script = [(select(&wanted), selected(&wanted[..1]))];
    assert_eq!(entered(wish(&["i"], 0), &script), wanted[..1]);
}

#[test]
fn who_refuses_all_is_asked_for_what_is_needed() {
    let (all, needed) = (["base:allocation", "i", "x:1"], ["base:allocation"]);
    let script = [
        (list(), listed(&all)),
        (select(&all), reply(10, 0x8000_0009, &[])),
        (select(&needed), selected(&needed)),
    ];
    assert_eq!(entered(wish(&["i"], 9), &script), needed);
}

#[test]
fn what_cannot_be_sent_is_left_out() {
    let long = "x".repeat(5000);
    let script = [(list(), listed(&["x:1"])), (select(&["base:allocation", "x:1"]), selected(&["x:1"]))];
    assert_eq!(entered(wish(&[&long], 9), &script), ["x:1"]);
}
