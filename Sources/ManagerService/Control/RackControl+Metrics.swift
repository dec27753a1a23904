import Wire

// What GET /metrics answers. Running programs count as they last reported, with each heartbeat.
extension RackControl {
    /// Prometheus text. Takes the state's lock for a copy; no store, no call.
    func metrics() -> String {
        let (components, running, ended) = state.withLock { state in
            (state.membership.components, state.running.all.map(\.record.statistics), state.endedTotals)
        }
        var totals = ended
        for statistics in running { totals.add(statistics) }
        var text = MetricsText()
        addComponents(components, to: &text)
        text.add("lego_programs_running", .gauge, help: "Programs that run.", UInt64(running.count))
        addEvents(to: &text)
        text.add("lego_faults_total", .counter, help: "Page faults that processors served.", totals.faults)
        text.add(
            "lego_zero_filled_pages_total", .counter, help: "Pages that were made without network.", totals.zeroFills)
        text.add(
            "lego_remote_read_pages_total", .counter, help: "Pages read from memory components.",
            totals.remoteReadPages)
        text.add(
            "lego_remote_written_pages_total", .counter, help: "Pages written to memory components.",
            totals.remoteWritePages)
        text.add("lego_evicted_pages_total", .counter, help: "Pages that left the ExCache.", totals.evictedPages)
        text.add(
            "lego_resident_bytes", .gauge, help: "Bytes of running programs in ExCaches.",
            running.reduce(0) { $0 &+ $1.residentBytes })
        text.add(
            "lego_remote_bytes", .gauge, help: "Bytes of running programs in memory components.",
            running.reduce(0) { $0 &+ $1.remoteBytes })
        return text.text
    }

    private func addComponents(_ components: [Component], to text: inout MetricsText) {
        func labels(_ component: Component) -> MetricsText.Labels {
            [("name", component.name), ("kind", component.kind.word)]
        }
        text.add(
            "lego_component_health", .gauge, help: "1 for the state that the component is in, 0 for the others.",
            components.flatMap { component in
                [RackMember.Health.healthy, .suspect, .lost].map { health in
                    (labels(component) + [("health", health.word)], component.health == health ? 1 : 0)
                }
            })
        text.add(
            "lego_component_capacity_bytes", .gauge, help: "What the component offers.",
            components.map { (labels($0), $0.capacityBytes) })
        text.add(
            "lego_component_used_bytes", .gauge, help: "What of it is in use.",
            components.map { (labels($0), $0.usedBytes) })
    }

    private func addEvents(to text: inout MetricsText) {
        for (name, help) in [
            (RackEvents.startedName, "Programs started since the manager's start."),
            (RackEvents.endedName, "Programs ended since the manager's start, by themselves or with a component."),
            (RackEvents.lossesName, "Components lost since the manager's start."),
        ] { text.add(name, .counter, help: help, events.counters.samples(of: name)) }
    }
}
