import Kernel

/// The channels of all sessions by number. Safe on any thread; the lock is a leaf.
final class ChannelTable: @unchecked Sendable {
    private let lock = AdaptiveLock()
    // Protected by `lock`.
    private var channels: [ServiceChannel?]
    private var next = 0

    /// `capacity`: at most 65536, the numbers of a token.
    init(capacity: Int) { channels = Array(repeating: nil, count: capacity) }

    /// Enters the channel that `make` makes for a free number; nil when there is none.
    func add(_ make: (Int) throws(KernelError) -> ServiceChannel) throws(KernelError) -> ServiceChannel? {
        lock.lock()
        defer { lock.unlock() }
        for _ in 0..<channels.count {
            let number = next
            next = next + 1 == channels.count ? 0 : next + 1
            if channels[number] == nil {
                let channel = try make(number)
                channels[number] = channel
                return channel
            }
        }
        return nil
    }

    func remove(_ channel: ServiceChannel) {
        lock.lock()
        channels[channel.number] = nil
        lock.unlock()
    }

    /// The channel that a token names.
    func find(_ token: WaitToken) -> ServiceChannel? {
        lock.lock()
        defer { lock.unlock() }
        return token.channel < channels.count ? channels[token.channel] : nil
    }

    var all: [ServiceChannel] {
        lock.lock()
        defer { lock.unlock() }
        return channels.compactMap(\.self)
    }
}
