import CLinux

/// signalfd(2): signals as something to poll for. Make it before the first thread, so that no thread takes the signals
/// itself.
public struct SignalDescriptor: ~Copyable, Sendable {
    private let descriptor: Descriptor

    /// Blocks the signals in the calling thread and all that it starts later.
    public init(_ signals: [Int32]) throws(KernelError) {
        descriptor = try Descriptor(checking: "signalfd", lego_signal_descriptor(signals, signals.count))
    }

    /// Readable while a signal is pending.
    public var raw: Int32 { descriptor.raw }

    /// Takes the next pending signal; nil when there is none.
    public borrowing func next() -> Int32? {
        let number = lego_signal_next(raw)
        return number == 0 ? nil : number
    }
}
