//! fio's `--output-format=json+`: the same histograms without time.

use serde_json::Value;

use super::source::{ReportSource, Row};

/// Whether a text is fio's JSON, perhaps with a greeting of its engine before it, rather than a log.
pub(super) fn is_fio(text: &str) -> bool {
    body(text).is_some_and(|body| body.contains("\"fio version\""))
}

fn body(text: &str) -> Option<&str> {
    if text.starts_with('{') { Some(text) } else { text.find("\n{").map(|start| &text[start + 1..]) }
}

/// Adds all jobs up, by command.
pub(super) fn add(source: &mut ReportSource, text: &str) -> Result<(), String> {
    let json = serde_json::Deserializer::from_str(body(text).unwrap_or_default()).into_iter::<Value>().next();
    let json = json.ok_or("it is empty")?.map_err(|error| error.to_string())?;
    let jobs = json["jobs"].as_array().ok_or("it has no jobs")?;
    if let Some(version) = json["fio version"].as_str() {
        source.facts.push(("version", version.to_owned()));
    }
    source.facts.push(("command", command(&json, jobs)));
    for side in ["read", "write", "trim"] {
        for job in jobs {
            add_side(source, side, &job[side])?;
        }
    }
    Ok(())
}

fn add_side(source: &mut ReportSource, side: &str, job: &Value) -> Result<(), String> {
    if job["total_ios"].as_u64().unwrap_or(0) == 0 {
        return Ok(());
    }
    // From submission where fio says it, else from the end of the submission.
    let bins = ["lat_ns", "clat_ns"].iter().find_map(|name| job[name]["bins"].as_object());
    let bins = bins.ok_or("it has no bins: run fio with --output-format=json+ and leave latencies on")?;
    let runtime = job["runtime"].as_f64().unwrap_or(0.0) / 1000.0;
    source.seconds = source.seconds.max(runtime);
    let index = source.rows.iter().position(|row| row.command == side && row.export.is_empty());
    let index = index.unwrap_or_else(|| {
        source.rows.push(Row::new("", side));
        source.rows.len() - 1
    });
    for (value, count) in bins {
        let value = value.parse().map_err(|_| format!("\"{value}\" is not a number of nanoseconds"))?;
        let count = count.as_u64().ok_or_else(|| format!("{count} is not a count"))?;
        source.rows[index].total.saturating_record_n(value, count);
    }
    Ok(())
}

/// About the command line that gave it.
fn command(json: &Value, jobs: &[Value]) -> String {
    let mut words = vec!["fio".to_owned()];
    let first = jobs.first().map_or(&Value::Null, |job| &job["job options"]);
    for options in [&json["global options"], first] {
        let options = options.as_object().into_iter().flatten();
        words.extend(options.filter_map(|(name, value)| {
            Some(match value.as_str()? {
                "" => format!("--{name}"),
                value => format!("--{name}={value}"),
            })
        }));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"nbd engine says hello
{
  "fio version" : "fio-3.39",
  "global options" : { "ioengine" : "nbd", "bs" : "4k" },
  "jobs" : [
    { "job options" : { "name" : "a", "group_reporting" : "" },
      "read" : { "total_ios" : 30, "runtime" : 2000, "clat_ns" : { "bins" : { "1000" : 10, "5024" : 20 } } },
      "write" : { "total_ios" : 0, "clat_ns" : {} }, "trim" : { "total_ios" : 0 } },
    { "read" : { "total_ios" : 5, "runtime" : 3000, "lat_ns" : { "bins" : { "9024" : 5 } } },
      "write" : { "total_ios" : 0 }, "trim" : { "total_ios" : 0 } }
  ]
}
"#;

    #[test]
    fn jobs_add_up() {
        assert!(is_fio(OUTPUT) && !is_fio("#[Histogram log format version 1.3]\n"));
        let mut source = ReportSource::default();
        add(&mut source, OUTPUT).unwrap();
        let [row] = &source.rows[..] else { panic!("{:?}", source.rows) };
        assert_eq!((row.command.as_str(), row.total.len(), source.seconds), ("read", 35, 3.0));
        assert_eq!(row.total.value_at_quantile(0.5), 5_023.max(row.total.highest_equivalent(5_024)));
        let command = &source.facts.iter().find(|(name, _)| *name == "command").unwrap().1;
        assert_eq!(command, "fio --bs=4k --ioengine=nbd --group_reporting --name=a");
    }

    #[test]
    fn output_without_bins_is_refused_with_the_remedy() {
        let plain = OUTPUT.replace("bins", "percentile");
        let error = add(&mut ReportSource::default(), &plain).unwrap_err();
        assert!(error.contains("json+"), "{error}");
    }
}
