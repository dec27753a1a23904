import Wire

/// The functions that a node offers, by number. Written before `start`, constant from then on.
final class FunctionTable: @unchecked Sendable {
    typealias Handler =
        @Sendable (LitePeer, UnsafeRawBufferPointer, UnsafeMutableRawBufferPointer) -> CallResult

    struct Entry {
        let requestBytes_max: Int
        let responseBytes_max: Int
        let thread: HandlerThread
        let handler: Handler
    }

    private(set) var entries: [Entry] = []
    /// For each function number its place in `entries` plus one, or 0.
    private let places: UnsafeMutablePointer<UInt16>

    init() {
        places = .allocate(capacity: 1 << 16)
        places.initialize(repeating: 0, count: 1 << 16)
    }

    deinit { places.deallocate() }

    func add(_ function: FunctionID, _ entry: Entry) {
        precondition(function.rawValue != 0, "function 0 is Lite's own")
        precondition(places[Int(function.rawValue)] == 0, "function \(function.rawValue) is registered twice")
        entries.append(entry)
        places[Int(function.rawValue)] = UInt16(entries.count)
    }

    /// The place of a function in `entries`; nil for one that is not offered, whatever a peer asks for.
    @inline(__always)
    func place(_ function: UInt32) -> Int? {
        if function == 0 || function > 0xffff { return nil }
        let place = places[Int(function)]
        return place == 0 ? nil : Int(place) - 1
    }
}
