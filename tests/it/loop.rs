//! The loop with a toy kind on the memory store, in paused time: what runs when, and what remains.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel::api::conditions::{self, Conditions};
use evenkeel::api::failure::{Class, Failure};
use evenkeel::api::labels::Owner;
use evenkeel::api::object::Object;
use evenkeel::runtime::clock::{self, TestClock};
use evenkeel::runtime::finalizer::FINALIZER;
use evenkeel::runtime::metrics::Metrics;
use evenkeel::runtime::{Concern, Keeper, Kind, Manager, Plan, Significance, Wake, Want};
use evenkeel::store::objects::Preconditions;
use evenkeel::store::{Key, MemoryStore, Objects};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const TOYS: &str = "toys.test";

/// A toy wants as many bricks outside as its spec requests.
#[derive(Debug, Clone, Deserialize)]
struct Toy {
    metadata: ObjectMeta,
    spec: Spec,
}

impl Object for Toy {
    const KIND: &'static str = "Toy";
    const RESOURCE: &'static str = TOYS;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Spec {
    bricks: u32,
    /// The Secret of the toy box.
    secret: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Status {
    wanted: u32,
    conditions: Vec<Condition>,
}

impl Conditions for Status {
    fn generation(&self) -> i64 {
        1
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Lay(u32),
    Clear,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lay(count) => write!(f, "lay {count} bricks"),
            Self::Clear => f.write_str("clear the bricks away"),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        matches!(self, Self::Lay(_)).then_some("BricksLaid")
    }
}

/// The toys' world, scripted by the tests.
#[derive(Debug, Default)]
struct World {
    bricks: BTreeMap<String, u32>,
    /// What the loop did, in order: `observe a`, `act a: lay 2 bricks`.
    log: Vec<String>,
    /// Start time of each observe.
    observed: Vec<Instant>,
    /// Failures of the next steps.
    failures: Vec<Class>,
    /// Number of observes that will panic.
    panics: u32,
    /// Duration of an observe.
    slowness: Duration,
    /// Number of running observes of each toy, and the highest number ever.
    under_way: BTreeMap<String, u32>,
    most_under_way: u32,
    /// Writes the object between observe and record.
    meddler: Option<Objects>,
    /// The forgotten objects, in order.
    forgotten: Vec<String>,
    /// The recorded statuses: toy and bricks.
    recorded: Vec<(String, u32)>,
}

#[derive(Debug, Clone, Default)]
struct ToyKind(Arc<Mutex<World>>);

impl ToyKind {
    fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Kind for ToyKind {
    type Object = Toy;
    type Status = Status;
    type Observed = u32;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced("secrets"),
            Concern::named_in("boxes.test", |toy_box| vec![toy_box["toy"].as_str().unwrap().to_owned()])
                .only(|toy_box| json!([toy_box["toy"], toy_box["open"]])),
            Concern::all("rooms.test"),
        ]
    }

    fn references(toy: &Toy) -> Vec<Key> {
        let key = |name: &String| {
            let (resource, namespace, name) = ("secrets".to_owned(), toy.namespace().to_owned(), name.clone());
            Key { resource, namespace, name }
        };
        toy.spec.secret.iter().map(key).collect()
    }

    async fn observe(&self, toy: &Toy) -> Result<u32, Failure> {
        let name = toy.name().to_owned();
        let (slowness, meddler, panics) = self.world(|world| {
            world.log.push(format!("observe {name}"));
            world.observed.push(clock::instant());
            let under_way = world.under_way.entry(name.clone()).or_default();
            *under_way += 1;
            world.most_under_way = world.most_under_way.max(*under_way);
            let panics = world.panics > 0;
            world.panics = world.panics.saturating_sub(1);
            (world.slowness, world.meddler.take(), panics)
        });
        if !slowness.is_zero() {
            sleep(slowness).await;
        }
        self.world(|world| *world.under_way.get_mut(&name).unwrap() -= 1);
        if let Some(objects) = meddler {
            set_bricks(&objects, &name, 7).await;
        }
        assert!(!panics, "the toy box is on fire");
        Ok(self.world(|world| world.bricks.get(&name).copied().unwrap_or(0)))
    }

    fn plan(&self, toy: &Toy, bricks: &u32, want: Want, now: Timestamp) -> Plan<Step, Status> {
        let status = |wanted| Status { wanted, conditions: Vec::new() };
        if want == Want::Paused {
            let status = conditions::paused(status(*bricks), now);
            return Plan { status, steps: vec![], requeue: None, finished: false };
        }
        let deleting = want == Want::Absent;
        let wanted = if deleting { 0 } else { toy.spec.bricks };
        let steps = match wanted {
            _ if *bricks == wanted => vec![],
            0 => vec![Step::Clear],
            _ => vec![Step::Lay(wanted)],
        };
        let finished = deleting && *bricks == 0;
        let requeue = (!steps.is_empty()).then_some(Duration::ZERO);
        Plan { status: status(wanted), steps, requeue, finished }
    }

    fn recorded(&self, toy: &Toy, status: &Status) {
        self.world(|world| world.recorded.push((toy.name().to_owned(), status.wanted)));
    }

    async fn act(&self, toy: &Toy, step: &Step) -> Result<(), Failure> {
        let name = toy.name().to_owned();
        self.world(|world| {
            world.log.push(format!("act {name}: {step}"));
            if let Some(class) = world.failures.pop() {
                return Err(Failure::new(class, "out of mortar"));
            }
            let bricks = if let Step::Lay(count) = step { *count } else { 0 };
            world.bricks.insert(name.clone(), bricks);
            Ok(())
        })
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![self]
    }
}

impl Keeper for ToyKind {
    fn forget(&self, toy: &Owner) {
        self.world(|world| world.forgotten.push(format!("{} {}/{}", toy.kind, toy.namespace, toy.name)));
    }

    fn count(&self) -> usize {
        0
    }
}

/// A manager with one kind, and its world.
struct Bench {
    kind: ToyKind,
    objects: Objects,
    metrics: Arc<Metrics>,
    wake: Wake,
    hints: mpsc::UnboundedSender<Option<Owner>>,
    manager: Arc<Manager>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        Self::resync(Duration::from_secs(10))
    }

    fn resync(resync: Duration) -> Self {
        let clock = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
        let objects = Objects::new(Arc::new(MemoryStore::new()), clock.clone());
        let kind = ToyKind::default();
        let mut manager = Manager::new(objects.clone(), clock).resync(resync);
        let metrics = manager.add(kind.clone());
        let manager = Arc::new(manager);
        let (hints, heard) = mpsc::unbounded_channel();
        let heard = futures::stream::unfold(heard, async |mut heard: mpsc::UnboundedReceiver<_>| {
            heard.recv().await.map(|hint| (hint, heard))
        });
        let (wake, shutdown) = (manager.wake(), CancellationToken::new());
        let (reconciling, stop) = (manager.clone(), shutdown.clone());
        let running = tokio::spawn(async move { reconciling.run(heard, stop).await });
        Self { kind, objects, metrics, wake, hints, manager, shutdown, running }
    }

    async fn create(&self, name: &str, bricks: u32) -> Value {
        let toy = json!({"apiVersion": "test/v1", "kind": "Toy", "metadata": {}, "spec": {"bricks": bricks}});
        self.objects.create(&key(name), toy).await.unwrap()
    }

    async fn toy(&self, name: &str) -> Option<Value> {
        self.objects.get(&key(name)).await.unwrap()
    }

    /// The loop's log since the last call.
    fn log(&self) -> Vec<String> {
        self.kind.world(|world| std::mem::take(&mut world.log))
    }

    fn hint(&self, name: &str) {
        let (kind, namespace) = ("Toy".to_owned(), "default".to_owned());
        self.hints.send(Some(Owner { kind, namespace, name: name.to_owned() })).unwrap();
    }

    /// Writes an object of another kind, with these fields.
    async fn put(&self, resource: &str, name: &str, mut object: Value) {
        let key = Key { resource: resource.into(), namespace: "default".into(), name: name.into() };
        object["metadata"] = json!({});
        if self.objects.get::<Value>(&key).await.unwrap().is_none() {
            self.objects.create(&key, object).await.unwrap();
        } else {
            self.objects.update(&key, object).await.unwrap();
        }
    }

    /// Events as `type reason count message`, in order of names.
    async fn events(&self) -> Vec<String> {
        let (events, _) = self.objects.list::<Value>("events", None).await.unwrap();
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let line = |event: &Value| {
            format!("{} {} {} {}", text(event, "type"), text(event, "reason"), event["count"], text(event, "message"))
        };
        let mut lines: Vec<String> = events.iter().map(line).collect();
        lines.sort();
        lines
    }
}

fn key(name: &str) -> Key {
    Key { resource: TOYS.into(), namespace: "default".into(), name: name.into() }
}

async fn set_bricks(objects: &Objects, name: &str, bricks: u32) {
    let changed = |mut toy: Value| {
        toy["spec"]["bricks"] = json!(bricks);
        Ok::<_, evenkeel::store::Error>(toy)
    };
    objects.modify(&key(name), evenkeel::store::objects::Part::Main, changed).await.unwrap();
}

/// Lets everything happen that is due within `millis` milliseconds of paused time.
async fn pass(millis: u64) {
    sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_is_seen_decided_recorded_and_done() {
    let bench = Bench::new();
    bench.create("a", 2).await;
    pass(1).await;
    assert_eq!(bench.log(), ["observe a", "act a: lay 2 bricks", "observe a"]);
    let toy = bench.toy("a").await.unwrap();
    assert_eq!(toy["status"], json!({"wanted": 2, "conditions": []}));
    assert_eq!(toy["metadata"]["finalizers"], json!([FINALIZER]));
    pass(200).await;
    assert_eq!(bench.events().await, ["Normal BricksLaid 1 lay 2 bricks"]);
    assert_eq!((bench.metrics.acted.get(), bench.metrics.steps_done.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_settled_object_is_looked_at_every_resync_and_not_written() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    pass(1000).await;
    bench.log();
    let before = bench.toy("a").await;
    pass(30_000).await;
    assert_eq!(bench.log(), ["observe a", "observe a", "observe a"]);
    assert_eq!(bench.toy("a").await, before);
    assert_eq!(bench.kind.world(|world| world.recorded.clone()), [("a".to_owned(), 0)], "told of once");
}

#[tokio::test(start_paused = true)]
async fn objects_from_before_the_start_are_reconciled() {
    let bench = Bench::new();
    bench.create("a", 1).await;
    bench.create("b", 1).await;
    pass(1).await;
    assert_eq!(bench.kind.world(|world| world.bricks.clone()), BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
}

#[tokio::test(start_paused = true)]
async fn one_object_is_never_reconciled_twice_at_once_and_hints_meanwhile_are_one() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    pass(1).await;
    bench.log();
    bench.kind.world(|world| world.slowness = Duration::from_millis(100));
    for _ in 0..10 {
        bench.hint("a");
        pass(5).await;
    }
    pass(1000).await;
    // One observe for the first hint, and one for the nine that came while it ran.
    assert_eq!(bench.log(), ["observe a", "observe a"]);
    assert_eq!(bench.kind.world(|world| world.most_under_way), 1);
}

#[tokio::test(start_paused = true)]
async fn objects_are_reconciled_beside_each_other() {
    let bench = Bench::new();
    bench.kind.world(|world| world.slowness = Duration::from_secs(1));
    for name in ["a", "b", "c"] {
        bench.create(name, 0).await;
    }
    pass(1500).await;
    let mut log = bench.log();
    log.sort();
    assert_eq!(log, ["observe a", "observe b", "observe c"]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_at_once() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    pass(3000).await;
    let said = clock::instant();
    bench.hint("a");
    pass(1).await;
    let seen = bench.kind.world(|world| *world.observed.last().unwrap());
    assert_eq!(seen.duration_since(said), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_hint_all_is_for_every_object() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    bench.create("b", 0).await;
    pass(1).await;
    bench.log();
    bench.hints.send(None).unwrap();
    pass(1).await;
    assert_eq!(bench.log(), ["observe a", "observe b"]);
}

#[tokio::test(start_paused = true)]
async fn a_hint_for_what_is_not_there_does_nothing() {
    let bench = Bench::new();
    bench.hint("ghost");
    pass(60_000).await;
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_task_beside_the_loop_wakes_its_object() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    bench.create("b", 0).await;
    pass(1).await;
    bench.log();
    bench.wake.owner(&Owner { kind: Toy::KIND.into(), namespace: "default".into(), name: "b".into() });
    pass(1).await;
    assert_eq!(bench.log(), ["observe b"]);
}

#[tokio::test(start_paused = true)]
async fn a_referenced_object_wakes_those_that_reference_it_and_no_others() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    bench.create("b", 0).await;
    let named = |mut toy: Value| {
        toy["spec"]["secret"] = json!("its");
        Ok::<_, evenkeel::store::Error>(toy)
    };
    bench.objects.modify(&key("b"), evenkeel::store::objects::Part::Main, named).await.unwrap();
    pass(1).await;
    bench.log();
    for value in ["made", "changed"] {
        bench.put("secrets", "its", json!({"data": value})).await;
        bench.put("secrets", "other", json!({"data": value})).await;
        pass(1).await;
        assert_eq!(bench.log(), ["observe b"], "{value}");
    }
    set_bricks(&bench.objects, "b", 1).await;
    pass(1).await;
    bench.log();
    // And only while it exists.
    bench.objects.delete(&key("b"), &Preconditions::default()).await.unwrap();
    pass(1000).await;
    bench.log();
    bench.put("secrets", "its", json!({"data": "again"})).await;
    pass(1).await;
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_names_others_wakes_them_when_what_matters_to_them_changed() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    bench.create("b", 0).await;
    pass(1).await;
    bench.log();
    let woken = async |toy_box: Value| {
        bench.put("boxes.test", "box", toy_box).await;
        pass(1).await;
        bench.log()
    };
    assert_eq!(woken(json!({"toy": "a", "open": false, "dust": 1})).await, ["observe a"]);
    assert_eq!(woken(json!({"toy": "a", "open": false, "dust": 2})).await, Vec::<String>::new());
    assert_eq!(woken(json!({"toy": "a", "open": true, "dust": 2})).await, ["observe a"]);
    assert_eq!(woken(json!({"toy": "b", "open": true, "dust": 2})).await, ["observe a", "observe b"]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_concerns_the_whole_kind_wakes_all() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    bench.create("b", 0).await;
    pass(1).await;
    bench.log();
    bench.put("rooms.test", "room", json!({})).await;
    pass(1).await;
    assert_eq!(bench.log(), ["observe a", "observe b"]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_object_is_left_as_it_is_and_says_so() {
    let bench = Bench::new();
    bench.create("a", 2).await;
    pass(1).await;
    bench.log();
    let paused = |mut toy: Value| {
        toy["metadata"]["annotations"] = json!({"evenkeel.dev/reconcile": "paused"});
        toy["spec"]["bricks"] = json!(5);
        Ok::<_, evenkeel::store::Error>(toy)
    };
    bench.objects.modify(&key("a"), evenkeel::store::objects::Part::Main, paused).await.unwrap();
    pass(1).await;
    assert_eq!(bench.log(), ["observe a"]);
    let status = bench.toy("a").await.unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["message"], "reconciliation is paused by annotation");
    // A deletion has priority over the pause.
    bench.objects.delete(&key("a"), &Preconditions::default()).await.unwrap();
    pass(1).await;
    assert_eq!(bench.toy("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_forgotten_by_its_kind() {
    let bench = Bench::new();
    bench.create("a", 2).await;
    pass(1).await;
    bench.objects.delete(&key("a"), &Preconditions::default()).await.unwrap();
    pass(1).await;
    assert_eq!(bench.kind.world(|world| world.forgotten.first().cloned()).as_deref(), Some("Toy default/a"));
}

#[tokio::test(start_paused = true)]
async fn a_preview_says_the_steps_and_does_nothing() {
    let bench = Bench::new();
    let toy = json!({"apiVersion": "test/v1", "kind": "Toy", "metadata": {"name": "a"}, "spec": {"bricks": 2}});
    let plan = bench.manager.preview(toy).await;
    assert_eq!((&plan["steps"], &plan["status"]["wanted"]), (&json!(["lay 2 bricks"]), &json!(2)));
    let unknown = bench.manager.preview(json!({"kind": "Brick"})).await;
    assert_eq!(unknown["note"], "objects of this kind are only stored; the operator does nothing for them");
    assert_eq!(bench.log(), ["observe a"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_kept_in_the_status_backed_off_and_recovers() {
    let bench = Bench::new();
    bench.kind.world(|world| world.failures = vec![Class::Transient; 3]);
    bench.create("a", 2).await;
    pass(1).await;
    assert_eq!(bench.log(), ["observe a", "act a: lay 2 bricks"]);
    let status = bench.toy("a").await.unwrap()["status"].clone();
    let said = "could not lay 2 bricks: out of mortar; it is tried again";
    assert_eq!(status["conditions"][1]["message"], said);
    assert_eq!(status["conditions"][0]["reason"], "StepFailed");
    // Three waits of at most 50, 100 and 200 ms.
    pass(400).await;
    let status = bench.toy("a").await.unwrap()["status"].clone();
    assert_eq!(status, json!({"wanted": 2, "conditions": []}));
    assert_eq!(bench.kind.world(|world| world.bricks["a"]), 2);
    let waits: Vec<_> =
        bench.kind.world(|world| world.observed.windows(2).map(|pair| pair[1] - pair[0]).take(3).collect());
    for (wait, whole) in waits.iter().zip([50, 100, 200]) {
        // tokio's timers are exact to 1 ms.
        let bounds = Duration::from_millis(whole / 2)..=Duration::from_millis(whole + 1);
        assert!(bounds.contains(wait), "{wait:?} of {whole} ms");
    }
    pass(200).await;
    let failed = "Warning StepFailed 3 lay 2 bricks: out of mortar";
    assert_eq!(bench.events().await, ["Normal BricksLaid 1 lay 2 bricks", failed]);
    assert_eq!((bench.metrics.failed.get(), bench.metrics.steps_failed.get()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_cannot_mend_waits_for_half_a_minute_or_a_change() {
    let bench = Bench::new();
    bench.kind.world(|world| world.failures = vec![Class::Terminal]);
    bench.create("a", 2).await;
    pass(14_000).await;
    assert_eq!(bench.log(), ["observe a", "act a: lay 2 bricks"]);
    set_bricks(&bench.objects, "a", 3).await;
    pass(1).await;
    assert_eq!(bench.log(), ["observe a", "act a: lay 3 bricks", "observe a"]);
}

#[tokio::test(start_paused = true)]
async fn who_decided_on_an_outdated_object_does_nothing_and_looks_again_at_once() {
    let bench = Bench::new();
    bench.kind.world(|world| world.meddler = Some(bench.objects.clone()));
    bench.create("a", 2).await;
    pass(1).await;
    let log = bench.log();
    assert_eq!(log[..3], ["observe a", "observe a", "act a: lay 7 bricks"]);
    assert!(log[3..].iter().all(|line| line == "observe a"), "{log:?}");
    assert_eq!(bench.metrics.conflicts.get(), 1);
    pass(200).await;
    assert_eq!(bench.events().await, ["Normal BricksLaid 1 lay 7 bricks"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_stays_until_it_is_torn_down() {
    let bench = Bench::new();
    bench.create("a", 2).await;
    pass(1).await;
    bench.log();
    bench.kind.world(|world| world.failures = vec![Class::Transient]);
    bench.objects.delete(&key("a"), &Preconditions::default()).await.unwrap();
    pass(1).await;
    assert_eq!(bench.log(), ["observe a", "act a: clear the bricks away"]);
    assert!(bench.toy("a").await.is_some());
    pass(60).await;
    assert_eq!(bench.log(), ["observe a", "act a: clear the bricks away", "observe a"]);
    assert_eq!(bench.toy("a").await, None);
    // And it is never observed again.
    pass(60_000).await;
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_others_still_hold_is_left_alone_once_torn_down() {
    let bench = Bench::new();
    bench.create("a", 0).await;
    pass(1).await;
    let held = |mut toy: Value| {
        toy["metadata"]["finalizers"] = json!([FINALIZER, "example.org/other"]);
        Ok::<_, evenkeel::store::Error>(toy)
    };
    bench.objects.modify(&key("a"), evenkeel::store::objects::Part::Main, held).await.unwrap();
    bench.objects.delete(&key("a"), &Preconditions::default()).await.unwrap();
    pass(1).await;
    assert_eq!(bench.toy("a").await.unwrap()["metadata"]["finalizers"], json!(["example.org/other"]));
    bench.log();
    pass(60_000).await;
    assert_eq!(bench.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_and_survived() {
    let bench = Bench::new();
    bench.kind.world(|world| world.panics = 2);
    bench.create("a", 2).await;
    bench.create("b", 1).await;
    pass(1000).await;
    assert_eq!(bench.metrics.panics.get(), 2);
    assert_eq!(bench.kind.world(|world| world.bricks.clone()), BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_of_its_kind_is_told_by_an_event_and_tried_rarely() {
    let bench = Bench::new();
    let broken = json!({"apiVersion": "test/v1", "kind": "Toy", "metadata": {}, "spec": {"bricks": "many"}});
    bench.objects.create(&key("a"), broken).await.unwrap();
    pass(14_000).await;
    assert_eq!(bench.log(), Vec::<String>::new());
    let events = bench.events().await;
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with("Warning Unreadable 1 the stored object is not a Toy: "), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_a_reconcile_finish() {
    let bench = Bench::new();
    bench.kind.world(|world| world.slowness = Duration::from_secs(5));
    bench.create("a", 2).await;
    pass(1000).await;
    let asked = clock::instant();
    bench.shutdown.cancel();
    bench.running.await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(bench.kind.world(|world| world.bricks["a"]), 2);
    // Its Event is not lost either.
    let (events, _) = bench.objects.list::<Value>("events", None).await.unwrap();
    assert_eq!(events.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever() {
    let bench = Bench::new();
    bench.kind.world(|world| world.slowness = Duration::from_secs(500));
    bench.create("a", 2).await;
    pass(1000).await;
    let asked = clock::instant();
    bench.shutdown.cancel();
    bench.running.await.unwrap();
    assert!((10..12).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    assert_eq!(bench.kind.world(|world| world.bricks.get("a").copied()), None);
}
