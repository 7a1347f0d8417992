//! What may leave, and what is added. Of what makes no sense here, masking falls to the safe side: values are stripped.

use super::reader::{Problem, Reader};
use super::{Environment, table};
use crate::egress::{
    Detector, Enrich, Filter, MAX_ATTRIBUTE_LEAST_BYTES, Mask, Rules, Sample, Spans, Value,
};

impl<E: Environment> Reader<'_, E> {
    pub(super) fn egress(&mut self) -> Rules {
        Rules {
            filter: Filter {
                spans: match self.choice(&table::SPANS) {
                    "llm" => Spans::Llm,
                    "llm-tree" => Spans::LlmTree,
                    _ => Spans::All,
                },
                include: self.list(&table::SPANS_INCLUDE),
                exclude: self.list(&table::SPANS_EXCLUDE),
            },
            sample: self.sample(),
            mask: self.mask(),
            max_attribute_bytes: self.max_attribute_bytes(),
            enrich: self.enrich(),
        }
    }

    fn sample(&mut self) -> Option<Sample> {
        let text = self.get(&table::SAMPLE)?;
        let sample = text
            .trim()
            .parse()
            .ok()
            .and_then(|ratio| Sample::new(ratio).ok());
        if sample.is_none() {
            self.not_used(&table::SAMPLE, &text, "it must be a number from 0 to 1");
        }
        sample
    }

    /// Zero is off.
    fn max_attribute_bytes(&mut self) -> Option<usize> {
        let bytes = self.number(&table::MAX_ATTRIBUTE_BYTES, 0);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        (bytes > 0).then_some(bytes.max(MAX_ATTRIBUTE_LEAST_BYTES))
    }

    fn mask(&mut self) -> Mask {
        let (mut detectors, mut patterns) = (Vec::new(), self.patterns());
        for name in self.list(&table::MASK) {
            let known = Detector::NAMES
                .iter()
                .find(|(known, _)| name.eq_ignore_ascii_case(known));
            match known {
                Some((_, detector)) => detectors.push(*detector),
                // No pattern is written so: what was meant is not known, and clear text is no substitute.
                None => patterns.push((name, "(".to_owned())),
            }
        }
        let mask = Mask::new(&detectors, &self.list(&table::MASK_KEYS), &patterns);
        for name in mask.broken() {
            let text = format!(
                "{} or {}_{}: {name:?} can be used for nothing, so ALL VALUES LEAVE WITHOUT THEIR CONTENT until it is mended",
                table::MASK.name,
                table::MASK_PATTERN.name.trim_end_matches("_<NAME>"),
                name.to_ascii_uppercase()
            );
            self.problems.push(Problem::new(table::MASK.name, text));
        }
        mask
    }

    /// Name and text of each pattern, in the order of their names.
    fn patterns(&self) -> Vec<(String, String)> {
        let start = table::MASK_PATTERN.name.trim_end_matches("<NAME>");
        let mut names = self.environment.names();
        names.retain(|name| table::MASK_PATTERN.is_named(name));
        names.sort();
        let pattern =
            |name: String| Some((name[start.len()..].to_owned(), self.environment.get(&name)?));
        names.into_iter().filter_map(pattern).collect()
    }

    /// By OpenTelemetry's conventions (<https://opentelemetry.io/docs/specs/semconv/resource/faas/>), from what Lambda
    /// tells every process in the sandbox.
    fn enrich(&mut self) -> Enrich {
        let enrich = self.choice(&table::ENRICH);
        if enrich == "off" {
            return Enrich::default();
        }
        let of = |key, name| Some((key, Value::Text(self.environment.get(name)?)));
        let memory = self.environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
        let memory = memory.and_then(|megabytes| megabytes.parse::<i64>().ok());
        let in_lambda = self.environment.get("AWS_LAMBDA_FUNCTION_NAME").is_some();
        let fixed = |key, value: &str| in_lambda.then(|| (key, Value::Text(value.to_owned())));
        let resource = [
            of("service.name", "AWS_LAMBDA_FUNCTION_NAME"),
            of(
                "deployment.environment.name",
                "LANGFUSE_TRACING_ENVIRONMENT",
            ),
            of("faas.name", "AWS_LAMBDA_FUNCTION_NAME"),
            of("faas.version", "AWS_LAMBDA_FUNCTION_VERSION"),
            memory.map(|megabytes| ("faas.max_memory", Value::Integer(megabytes << 20))),
            fixed("cloud.provider", "aws"),
            fixed("cloud.platform", "aws_lambda"),
            of("cloud.region", "AWS_REGION"),
        ];
        Enrich::new(resource.into_iter().flatten().collect(), enrich == "trace")
    }
}
