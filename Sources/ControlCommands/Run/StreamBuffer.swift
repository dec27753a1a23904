import Glibc

/// A bounded run of bytes between two descriptors: filled at its end, drained at its start. The memory is taken once.
struct StreamBuffer: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer
    private var start = 0
    private var end = 0

    init(capacity: Int) { memory = .allocate(byteCount: capacity, alignment: 16) }

    deinit { memory.deallocate() }

    var count: Int { end - start }
    var isEmpty: Bool { start == end }

    /// Room at the end, after what is there has been moved to the start.
    var room: Int { memory.count - count }

    /// What is there. Valid until the next change.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[start..<end]) }

    mutating func removeFirst(_ count: Int) {
        start += count
        if start >= end {
            start = 0
            end = 0
        }
    }

    /// The writable room; call `fill` with what was put there.
    mutating func space() -> UnsafeMutableRawBufferPointer {
        if start > 0 {
            memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[start..<end]))
            end -= start
            start = 0
        }
        return UnsafeMutableRawBufferPointer(rebasing: memory[end...])
    }

    mutating func fill(_ count: Int) { end += count }

    /// Appends as many of the bytes as fit; answers how many.
    mutating func append(_ more: UnsafeRawBufferPointer) -> Int {
        let count = min(more.count, room)
        if count == 0 { return 0 }
        let space = space()
        space.copyMemory(from: UnsafeRawBufferPointer(rebasing: more[..<count]))
        fill(count)
        return count
    }

    mutating func append(_ more: [UInt8]) { _ = more.withUnsafeBytes { append($0) } }
}

/// One of the user's outputs. Writing never blocks: a reader that is slow must not hold up signals.
struct OutputSink: ~Copyable {
    private let descriptor: Int32
    private let ownsDescriptor: Bool
    /// The most that one write takes. A pipe that polls writable has room for this much, whatever its blocking mode.
    private let portion: Int
    /// PIPE_BUF.
    private static let cautiousPortion = 4096
    private var pending = StreamBuffer(capacity: 64 << 10)
    private(set) var isClosed = false

    /// The pipe or terminal behind the number is opened once more where possible: non-blocking mode belongs to the open
    /// file, which other processes share.
    init(_ number: Int32) {
        var status = stat()
        let kind = fstat(number, &status) == 0 ? status.st_mode & S_IFMT : 0
        if kind == S_IFIFO || isatty(number) == 1 {
            let own = open("/proc/self/fd/\(number)", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)
            ownsDescriptor = own >= 0
            descriptor = own >= 0 ? own : number
            portion = own >= 0 ? 64 << 10 : Self.cautiousPortion
        } else {
            ownsDescriptor = false
            descriptor = number
            // Files and devices take everything at once; a socket is asked not to block.
            portion = 64 << 10
        }
    }

    deinit { if ownsDescriptor { close(descriptor) } }

    var isPending: Bool { !pending.isEmpty }

    /// What to wait for: room while something is pending; always the end of the reader.
    var poll: pollfd {
        pollfd(fd: isClosed ? -1 : descriptor, events: pending.isEmpty ? 0 : Int16(POLLOUT), revents: 0)
    }

    /// Writes, and keeps what does not go out at once. Call only while nothing is pending. Answers how much was taken:
    /// all, unless `bytes` is larger than a frame. With the cautious portion, only after a poll said that there is
    /// room.
    mutating func write(_ bytes: UnsafeRawBufferPointer) -> Int {
        if isClosed { return bytes.count }
        let written = put(bytes)
        if isClosed { return bytes.count }
        return written + pending.append(UnsafeRawBufferPointer(rebasing: bytes[written...]))
    }

    /// Writes what is pending, as far as it goes.
    mutating func flush() {
        let written = put(pending.bytes)
        pending.removeFirst(min(written, pending.count))
    }

    /// Writes without blocking; answers how much went out.
    private mutating func put(_ bytes: UnsafeRawBufferPointer) -> Int {
        var written = 0
        while written < bytes.count && !isClosed {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[written...].prefix(portion))
            var count = send(descriptor, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            if count < 0 && errno == ENOTSOCK { count = Glibc.write(descriptor, rest.baseAddress, rest.count) }
            if count >= 0 {
                written += count
                // One portion per readiness where a second write might block.
                if portion == Self.cautiousPortion { break }
            } else if errno == EAGAIN {
                break
            } else if errno != EINTR {
                shut()
            }
        }
        return written
    }

    /// Nobody reads any more, or the disk is full: what is pending is dropped.
    mutating func shut() {
        isClosed = true
        pending.removeFirst(pending.count)
    }
}
