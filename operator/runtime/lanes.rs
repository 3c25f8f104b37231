//! Lanes: which steps of a plan may be performed concurrently. Pure.

use super::Significance;

/// Splits the steps into stretches, performed one after the other; the lanes of a stretch run concurrently.
pub(super) fn stretches<S: Significance>(steps: &[S]) -> Vec<Vec<Vec<&S>>> {
    let mut stretches: Vec<Vec<Vec<&S>>> = Vec::new();
    let mut open = false;
    for step in steps {
        let Some(lane) = step.lane() else {
            stretches.push(vec![vec![step]]);
            open = false;
            continue;
        };
        if !open {
            stretches.push(Vec::new());
            open = true;
        }
        let Some(stretch) = stretches.last_mut() else { continue };
        match stretch.iter_mut().find(|steps| steps.first().and_then(|first| first.lane()) == Some(lane)) {
            Some(steps) => steps.push(step),
            None => stretch.push(vec![step]),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Step(&'static str);

    impl Significance for Step {
        fn event_reason(&self) -> Option<&'static str> {
            None
        }

        fn lane(&self) -> Option<&str> {
            self.0.split_once('/').map(|(lane, _)| lane)
        }
    }

    fn cut(steps: &[&'static str]) -> String {
        let steps: Vec<_> = steps.iter().map(|step| Step(step)).collect();
        let lane = |lane: Vec<&Step>| lane.iter().map(|step| step.0).collect::<Vec<_>>().join(" ");
        let stretch = |lanes: Vec<Vec<&Step>>| lanes.into_iter().map(lane).collect::<Vec<_>>().join(" | ");
        stretches(&steps).into_iter().map(stretch).collect::<Vec<_>>().join(" ; ")
    }

    #[test]
    fn steps_of_one_lane_are_in_order_and_a_step_without_one_parts_the_plan() {
        assert_eq!(cut(&["net", "a/make", "b/make", "a/start", "b/start"]), "net ; a/make a/start | b/make b/start");
        assert_eq!(cut(&["a/stop", "all", "a/make", "end"]), "a/stop ; all ; a/make ; end");
        assert_eq!(cut(&[]), "");
    }
}
