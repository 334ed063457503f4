//! `--host-header` and the flags that set and remove header fields. In: their values, each for all HTTP upstreams or for
//! the one that it names by its left side. Out: what each upstream's edge is told to change.

use tunnel_proto::hello::{Rewrite, SetField};
use tunnel_proto::upstream::{Place, Upstream, UpstreamMatch, parse_match};

use crate::args::PublishArgs;
use crate::fail::Fail;

/// Adds what the flags say to the upstreams.
///
/// # Errors
/// A value that means nothing, names no upstream of this client, or changes what cannot be changed.
pub(super) fn apply(args: &PublishArgs, upstreams: &mut [Upstream]) -> Result<(), Fail> {
    for text in &args.host_header {
        let (whose, host) = text.rsplit_once('=').map_or((None, text.as_str()), |(w, h)| (Some(w), h));
        each(upstreams, "--host-header", text, whose, |u| {
            u.rewrite.host = if host.trim() == "rewrite" { own(u) } else { host.trim().to_string() };
        })?;
    }
    type Place = fn(&mut Rewrite) -> &mut Vec<SetField>;
    let sets: [(&str, &[String], Place); 2] = [
        ("--request-header-add", &args.request_header_add, |r| &mut r.request_set),
        ("--response-header-add", &args.response_header_add, |r| &mut r.response_set),
    ];
    for (flag, values, place) in sets {
        for text in values {
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| wrong(flag, text, "write `Name: value`, the name before a colon"))?;
            // A name holds no `=`, and neither does the left side of an upstream.
            let (whose, name) = name.split_once('=').map_or((None, name), |(w, n)| (Some(w), n));
            let field = SetField { name: name.trim().to_string(), value: value.trim().to_string() };
            each(upstreams, flag, text, whose, |u| place(&mut u.rewrite).push(field.clone()))?;
        }
    }
    type Names = fn(&mut Rewrite) -> &mut Vec<String>;
    let removes: [(&str, &[String], Names); 2] = [
        ("--request-header-remove", &args.request_header_remove, |r| &mut r.request_remove),
        ("--response-header-remove", &args.response_header_remove, |r| &mut r.response_remove),
    ];
    for (flag, values, place) in removes {
        for text in values {
            let (whose, name) = text.split_once('=').map_or((None, text.as_str()), |(w, n)| (Some(w), n));
            each(upstreams, flag, text, whose, |u| place(&mut u.rewrite).push(name.trim().to_string()))?;
        }
    }
    Ok(())
}

/// Changes the HTTP upstreams that a value is for.
fn each(
    upstreams: &mut [Upstream],
    flag: &str,
    text: &str,
    whose: Option<&str>,
    change: impl Fn(&mut Upstream),
) -> Result<(), Fail> {
    let ask = whose.map(parse_match).transpose().map_err(|why| wrong(flag, text, &why))?;
    let is_for = |u: &Upstream| match &ask {
        Some(ask) => u.ask == *ask,
        None => matches!(u.ask, UpstreamMatch::Http { .. }),
    };
    let mut found = false;
    for upstream in upstreams.iter_mut().filter(|u| is_for(u)) {
        found = true;
        change(upstream);
        tunnel_proto::http1::rewrite::check(&upstream.rewrite).map_err(|why| wrong(flag, text, &why))?;
    }
    let none = match whose {
        Some(whose) => format!("no --upstream of this client has `{whose}` before its `=`"),
        None => "this client has no HTTP upstream".to_string(),
    };
    if found { Ok(()) } else { Err(wrong(flag, text, &none)) }
}

/// The upstream as its own URL names it.
fn own(upstream: &Upstream) -> String {
    let default = if upstream.to.tls { 443 } else { 80 };
    let whole = upstream.to.to_string();
    match &upstream.to.at {
        Place::Unix(_) => "localhost".to_string(),
        Place::Tcp { port, .. } if *port == default => {
            whole.strip_suffix(&format!(":{default}")).unwrap_or(&whole).to_string()
        }
        Place::Tcp { .. } => whole,
    }
}

fn wrong(flag: &str, text: &str, why: &str) -> Fail {
    Fail::usage(
        format!("{flag} `{text}`: {why}"),
        format!("`{flag}` takes one value for all HTTP upstreams, or `app.example.com=…` for one of them"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel_proto::upstream::{Plane, parse_upstreams};

    fn applied(set: impl FnOnce(&mut PublishArgs)) -> Result<Vec<Rewrite>, String> {
        let text = ["app.example.com=http://localhost:5173,*.example.com/api=https://10.0.0.1,2222=10.0.0.1:22"];
        let mut upstreams = parse_upstreams(&text.map(str::to_string), None, Plane::Http).unwrap();
        let mut args = PublishArgs::default();
        set(&mut args);
        apply(&args, &mut upstreams).map_err(|e| format!("{e:?}"))?;
        Ok(upstreams.into_iter().map(|u| u.rewrite).collect())
    }

    #[test]
    fn for_all_or_for_one() {
        let done = applied(|a| {
            a.host_header = vec!["rewrite".into()];
            a.request_header_add = vec!["app.example.com=Origin: http://localhost:5173?a=b".into(), "X-A: 1".into()];
            a.response_header_remove = vec!["*.example.com/api=Server".into()];
        })
        .unwrap();
        assert_eq!((done[0].host.as_str(), done[1].host.as_str()), ("localhost:5173", "10.0.0.1"));
        let names = |r: &Rewrite| r.request_set.iter().map(|f| format!("{}={}", f.name, f.value)).collect::<Vec<_>>();
        assert_eq!(names(&done[0]), ["Origin=http://localhost:5173?a=b", "X-A=1"]);
        assert_eq!(names(&done[1]), ["X-A=1"]);
        assert_eq!((done[0].response_remove.len(), done[1].response_remove.len()), (0, 1));
        assert!(done[2].is_empty(), "a port is forwarded as it is");
    }

    #[test]
    fn what_means_nothing_says_why() {
        for (value, why) in [
            ("other.example.com=X: 1", "no --upstream"),
            ("X-A", "Name: value"),
            ("Host: a", "--host-header"),
            ("X-Forwarded-For: 1.2.3.4", "written by the edge"),
            ("Content-Length: 5", "written by the edge"),
            ("a b: c", "not the name"),
        ] {
            let e = applied(|a| a.request_header_add = vec![value.into()]).unwrap_err();
            assert!(e.contains(why), "{value}: {e}");
        }
        assert!(applied(|a| a.host_header = vec!["a b".into()]).unwrap_err().contains("not a host"));
    }
}
