import CLinux
import Glibc
import Kernel
import Wire

/// A connection that has not made its request yet.
protocol PendingConnection: AnyObject {
    var deadline: Deadline { get }
    /// Closes it. On the device's thread.
    func drop()
}

/// A listening socket.
final class Listener: EventHandler, @unchecked Sendable {
    private let socket: Descriptor
    private let isLocal: Bool
    private unowned let context: SoftContext
    private var token: UInt64 = 0

    init(_ socket: consuming Descriptor, isLocal: Bool, context: SoftContext) {
        self.socket = socket
        self.isLocal = isLocal
        self.context = context
    }

    func watch() throws(KernelError) {
        token = context.loop.register(self)
        try context.loop.watch(socket.raw, token: token)
    }

    func unwatch() { context.loop.remove(socket.raw, token: token) }

    func handle(_ events: UInt32) {
        // One at a time: epoll comes back while more are waiting.
        let raw = lego_accept(socket.raw, 1)
        if raw < 0 { return }
        let connection = Descriptor(taking: raw)
        if isLocal {
            LocalConnection(connection, context: context).start()
        } else {
            GreetedConnection(connection, context: context).start()
        }
    }
}

/// A TCP connection from its greeting until it makes its request, here or through the Unix socket.
final class GreetedConnection: EventHandler, PendingConnection, @unchecked Sendable {
    let nonce = InstanceID.random()
    let deadline = Deadline.after(Acceptor.greetingTimeout)
    private unowned let context: SoftContext
    // The device thread's, but for the last release.
    private var socket: Descriptor?
    private let raw: Int32
    private var token: UInt64 = 0
    private var request: [UInt8] = []

    init(_ socket: consuming Descriptor, context: SoftContext) {
        raw = socket.raw
        self.socket = consume socket
        self.context = context
    }

    func start() {
        let greeting = AcceptorGreeting(
            instance: context.instance, host: context.host, nonce: nonce, offers: context.offers)
        guard context.acceptor.add(self) else { return }
        do throws(KernelError) {
            try Sockets.sendGreeting(raw, greeting.encoded(AcceptorGreeting.encodedSize))
            token = context.loop.register(self)
            try context.loop.watch(raw, token: token)
        } catch {
            drop()
        }
    }

    func handle(_ events: UInt32) {
        var buffer = [UInt8](repeating: 0, count: PairGreeting.encodedSize - request.count)
        let count = recv(raw, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        if count <= 0 { return drop() }
        request += buffer.prefix(count)
        if request.count == PairGreeting.encodedSize { makeRequest() }
    }

    private func makeRequest() {
        let greeting = request.withUnsafeBytes { PairGreeting(decoding: $0) }
        guard let greeting, greeting.kind == .request, greeting.nonce == nonce,
            context.offers & AcceptorGreeting.offersTCP != 0,
            context.acceptor.take(nonce) != nil
        else { return drop() }
        unwatch()
        guard let socket = socket.take() else { return }
        context.acceptor.queue(SoftConnectionRequest(context: context, greeting: greeting, stream: socket))
    }

    func unwatch() { context.loop.remove(raw, token: token) }

    func drop() {
        _ = context.acceptor.take(nonce)
        unwatch()
        socket = nil
    }
}

/// A Unix connection that has not made its request yet.
final class LocalConnection: EventHandler, PendingConnection, @unchecked Sendable {
    let deadline = Deadline.after(Acceptor.greetingTimeout)
    private unowned let context: SoftContext
    // The device thread's.
    private var socket: Descriptor?
    private let raw: Int32
    private var token: UInt64 = 0

    init(_ socket: consuming Descriptor, context: SoftContext) {
        raw = socket.raw
        self.socket = consume socket
        self.context = context
    }

    func start() {
        guard context.acceptor.add(self) else { return }
        do throws(KernelError) {
            token = context.loop.register(self)
            try context.loop.watch(raw, token: token)
        } catch {
            drop()
        }
    }

    func handle(_ events: UInt32) {
        var bytes = [UInt8](repeating: 0, count: PairGreeting.encodedSize + 1)
        var packet = ReceivedPacket(from: raw, into: &bytes)
        switch packet.outcome {
        case .none: return
        case .endOfStream: return drop()
        case .packet: break
        }
        let greeting = bytes.withUnsafeBytes {
            PairGreeting(decoding: UnsafeRawBufferPointer(rebasing: $0.prefix(packet.count)))
        }
        // The nonce proves that both sockets lead to one host's one process.
        guard let greeting, greeting.kind == .request, let greeted = context.acceptor.take(greeting.nonce),
            let page = packet.take(0), let offer = SharedOffer(&packet, from: 1, instance: greeting.instance)
        else { return drop() }
        greeted.drop()
        unwatch()
        context.acceptor.drop(self)
        guard let socket = socket.take() else { return }
        context.acceptor.queue(
            SoftConnectionRequest(context: context, greeting: greeting, control: socket, page: page, offer: offer))
    }

    func unwatch() { context.loop.remove(raw, token: token) }

    func drop() {
        context.acceptor.drop(self)
        unwatch()
        socket = nil
    }
}
