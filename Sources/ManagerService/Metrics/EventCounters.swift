import CoreMetrics
import Synchronization

/// The counters of one manager behind swift-metrics: code counts with `Counter(label:dimensions:factory:)`, and a scrape
/// reads them all. Only counters are kept: what has a value at any time (sizes, states) is read where it is, when asked.
final class EventCounters: MetricsFactory {
    private struct Series {
        let labels: MetricsText.Labels
        let handler: Handler
    }

    private final class Handler: CounterHandler {
        let value = Atomic<Int64>(0)
        func increment(by amount: Int64) { value.add(amount, ordering: .relaxed) }
        func reset() { value.store(0, ordering: .relaxed) }
    }

    /// Series by metric. A leaf lock.
    private let series = Mutex<[String: [Series]]>([:])

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        series.withLock { series in
            let known = series[label, default: []].first { entry in
                entry.labels.elementsEqual(dimensions) { $0.name == $1.0 && $0.value == $1.1 }
            }
            if let known { return known.handler }
            let handler = Handler()
            series[label, default: []].append(
                Series(labels: dimensions.map { (name: $0.0, value: $0.1) }, handler: handler))
            return handler
        }
    }

    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        NOOPMetricsHandler.instance
    }
    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler { NOOPMetricsHandler.instance }

    /// A counter lives as long as the manager.
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}

    /// The samples of a metric; empty when nobody made it.
    func samples(of label: String) -> [(labels: MetricsText.Labels, value: UInt64)] {
        let entries = series.withLock { $0[label] ?? [] }
        return entries.map { ($0.labels, UInt64(clamping: $0.handler.value.load(ordering: .relaxed))) }
    }
}
