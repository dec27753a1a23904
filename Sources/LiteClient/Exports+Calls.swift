import CLite
import Kernel

// The functions of `lite.h` for calls, locks and barriers.

@_cdecl("lite_register")
func exportedRegister(_ lite: OpaquePointer?, _ function: UInt16, _ bytes_max: UInt32, _ depth: Int32) -> Int32 {
    session(lite)?.register(function, bytes_max, depth) ?? LITE_EINVAL.code
}

@_cdecl("lite_unregister")
func exportedUnregister(_ lite: OpaquePointer?, _ function: UInt16) -> Int32 {
    session(lite)?.manage(LITE_OP_UNREGISTER, UInt64(function)) ?? LITE_EINVAL.code
}

@_cdecl("lite_receive")
func exportedReceive(
    _ lite: OpaquePointer?, _ function: UInt16, _ buffer: UnsafeMutableRawPointer?, _ capacity: UInt64,
    _ request: UnsafeMutablePointer<lite_request>?, _ timeout_ms: Int32
) -> Int32 {
    guard let session = session(lite), let buffer, let request else { return LITE_EINVAL.code }
    var taken = LiteRequest(call: 0, node: 0, count: 0)
    let status = session.receive(
        function, buffer, Int(clamping: capacity), &taken, until: LiteSession.deadline(timeout_ms))
    if status >= 0 { request.pointee = lite_request(call: taken.call, node: taken.node, count: UInt64(taken.count)) }
    return status
}

@_cdecl("lite_reply")
func exportedReply(_ lite: OpaquePointer?, _ call: UInt64, _ buffer: UnsafeRawPointer?, _ count: UInt64) -> Int32 {
    guard let session = session(lite), buffer != nil || count == 0 else { return LITE_EINVAL.code }
    return session.reply(call, buffer, Int(clamping: count))
}

@_cdecl("lite_reply_receive")
func exportedReplyReceive(
    _ lite: OpaquePointer?, _ call: UInt64, _ reply: UnsafeRawPointer?, _ count: UInt64, _ function: UInt16,
    _ buffer: UnsafeMutableRawPointer?, _ capacity: UInt64, _ request: UnsafeMutablePointer<lite_request>?,
    _ timeout_ms: Int32
) -> Int32 {
    guard let session = session(lite), let buffer, let request, reply != nil || count == 0 else {
        return LITE_EINVAL.code
    }
    var taken = LiteRequest(call: 0, node: 0, count: 0)
    let status = session.replyReceive(
        call, reply, Int(clamping: count), function, buffer, Int(clamping: capacity), &taken,
        until: LiteSession.deadline(timeout_ms))
    if status >= 0 { request.pointee = lite_request(call: taken.call, node: taken.node, count: UInt64(taken.count)) }
    return status
}

@_cdecl("lite_call")
func exportedCall(
    _ lite: OpaquePointer?, _ node: UInt64, _ function: UInt16, _ request: UnsafeRawPointer?, _ count: UInt64,
    _ reply: UnsafeMutableRawPointer?, _ capacity: UInt64, _ received: UnsafeMutablePointer<UInt64>?,
    _ timeout_ms: Int32
) -> Int32 {
    guard let session = session(lite), request != nil || count == 0, reply != nil || capacity == 0 else {
        return LITE_EINVAL.code
    }
    var bytes: UInt64 = 0
    let status = session.call(
        node, function, request, Int(clamping: count), reply, Int(clamping: capacity), &bytes,
        until: LiteSession.deadline(timeout_ms))
    received?.pointee = bytes
    return status
}

@_cdecl("lite_send")
func exportedSend(
    _ lite: OpaquePointer?, _ node: UInt64, _ function: UInt16, _ message: UnsafeRawPointer?, _ count: UInt64
) -> Int32 {
    guard let session = session(lite), message != nil || count == 0 else { return LITE_EINVAL.code }
    return session.send(node, function, message, Int(clamping: count))
}

@_cdecl("lite_multicast")
func exportedMulticast(
    _ lite: OpaquePointer?, _ nodes: UnsafePointer<UInt64>?, _ nodesCount: Int32, _ function: UInt16,
    _ request: UnsafeRawPointer?, _ count: UInt64, _ replies: UnsafeMutableRawPointer?, _ capacity: UInt64,
    _ received: UnsafeMutablePointer<UInt64>?, _ statuses: UnsafeMutablePointer<Int32>?, _ timeout_ms: Int32
) -> Int32 {
    guard let session = session(lite), let nodes, nodesCount > 0, request != nil || count == 0,
        replies != nil || capacity == 0
    else { return LITE_EINVAL.code }
    return session.multicast(
        UnsafeBufferPointer(start: nodes, count: Int(nodesCount)), function, request, Int(clamping: count), replies,
        Int(clamping: capacity), received, statuses, until: LiteSession.deadline(timeout_ms))
}

// MARK: Locks and barriers

@_cdecl("lite_lock_open")
func exportedLockOpen(
    _ lite: OpaquePointer?, _ text: UnsafePointer<CChar>?, _ lock: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let session = session(lite), let name = exportedName(text), let lock else { return LITE_EINVAL.code }
    return session.openLock(name, &lock.pointee)
}

@_cdecl("lite_lock")
func exportedLock(_ lite: OpaquePointer?, _ lock: UInt64, _ timeout_ms: Int32) -> Int32 {
    session(lite)?.lock(lock, until: LiteSession.deadline(timeout_ms)) ?? LITE_EINVAL.code
}

@_cdecl("lite_unlock")
func exportedUnlock(_ lite: OpaquePointer?, _ lock: UInt64) -> Int32 {
    session(lite)?.manage(LITE_OP_UNLOCK, lock) ?? LITE_EINVAL.code
}

@_cdecl("lite_lock_close")
func exportedLockClose(_ lite: OpaquePointer?, _ lock: UInt64) -> Int32 {
    session(lite)?.manage(LITE_OP_LOCK_CLOSE, lock) ?? LITE_EINVAL.code
}

@_cdecl("lite_barrier")
func exportedBarrier(
    _ lite: OpaquePointer?, _ text: UnsafePointer<CChar>?, _ parties: UInt32, _ timeout_ms: Int32
) -> Int32 {
    guard let session = session(lite), let name = exportedName(text) else { return LITE_EINVAL.code }
    return session.barrier(name, parties, until: LiteSession.deadline(timeout_ms))
}
