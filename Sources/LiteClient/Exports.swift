import CLite
import Glibc
import Kernel

// The functions of `lite.h`. Null pointers where something is to be read or written are refused as `LITE_EINVAL`.

/// The bytes of a C text; nil for none, or one that is longer than a name may be.
func exportedName(_ text: UnsafePointer<CChar>?) -> UnsafeRawBufferPointer? {
    guard let text else { return nil }
    let count = strnlen(text, Int(LITE_NAME_MAX) + 1)
    return UnsafeRawBufferPointer(start: text, count: count)
}

/// The session behind a `lite_t *`.
@inline(__always)
func session(_ lite: OpaquePointer?) -> LiteSession? {
    guard let lite else { return nil }
    return Unmanaged<LiteSession>.fromOpaque(UnsafeRawPointer(lite)).takeUnretainedValue()
}

@_cdecl("lite_join")
func exportedJoin(
    _ path: UnsafePointer<CChar>?, _ channels: Int32, _ priority: UInt32,
    _ lite: UnsafeMutablePointer<OpaquePointer?>?
) -> Int32 {
    guard let lite, let priority = LiteSession.Priority(rawValue: priority) else { return LITE_EINVAL.code }
    var options = LiteSession.Options()
    options.channels = Int(channels)
    options.priority = priority
    do throws(LiteFailure) {
        let session = try LiteSession(path: path.map { String(cString: $0) }, options: options)
        lite.pointee = OpaquePointer(Unmanaged.passRetained(session).toOpaque())
        return LITE_OK.code
    } catch { return error.status }
}

@_cdecl("lite_leave")
func exportedLeave(_ lite: OpaquePointer?) {
    guard let lite else { return }
    let session = Unmanaged<LiteSession>.fromOpaque(UnsafeRawPointer(lite)).takeRetainedValue()
    session.leave()
}

@_cdecl("lite_self")
func exportedSelf(_ lite: OpaquePointer?) -> UInt64 { session(lite)?.node ?? 0 }

@_cdecl("lite_nodes")
func exportedNodes(_ lite: OpaquePointer?, _ nodes: UnsafeMutablePointer<UInt64>?, _ capacity: Int32) -> Int32 {
    guard let session = session(lite), capacity >= 0, nodes != nil || capacity == 0 else { return LITE_EINVAL.code }
    return session.nodes(into: UnsafeMutableBufferPointer(start: nodes, count: Int(capacity)))
}

@_cdecl("lite_node_named")
func exportedNodeNamed(
    _ lite: OpaquePointer?, _ text: UnsafePointer<CChar>?, _ node: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let session = session(lite), let name = exportedName(text), let node else { return LITE_EINVAL.code }
    return session.runNamed(LITE_OP_NODE_NAMED, name, collect: { node.pointee = $0.value })
}

// MARK: Regions

@_cdecl("lite_malloc")
func exportedMalloc(
    _ lite: OpaquePointer?, _ node: UInt64, _ bytes: UInt64, _ handle: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let session = session(lite), let handle else { return LITE_EINVAL.code }
    return withUnsafePointer(to: node) {
        session.allocate(UnsafeBufferPointer(start: $0, count: 1), bytes, &handle.pointee)
    }
}

@_cdecl("lite_malloc_spread")
func exportedMallocSpread(
    _ lite: OpaquePointer?, _ nodes: UnsafePointer<UInt64>?, _ count: Int32, _ bytes: UInt64,
    _ handle: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let session = session(lite), let nodes, count > 0, let handle else { return LITE_EINVAL.code }
    return session.allocate(UnsafeBufferPointer(start: nodes, count: Int(count)), bytes, &handle.pointee)
}

@_cdecl("lite_free")
func exportedFree(_ lite: OpaquePointer?, _ handle: UInt64) -> Int32 {
    session(lite)?.manage(LITE_OP_FREE, handle) ?? LITE_EINVAL.code
}

@_cdecl("lite_name")
func exportedName(_ lite: OpaquePointer?, _ handle: UInt64, _ text: UnsafePointer<CChar>?) -> Int32 {
    guard let session = session(lite), let name = exportedName(text) else { return LITE_EINVAL.code }
    return session.runNamed(LITE_OP_NAME, name, fill: { $0.handle = handle })
}

@_cdecl("lite_map")
func exportedMap(
    _ lite: OpaquePointer?, _ text: UnsafePointer<CChar>?, _ rights: UInt32, _ handle: UnsafeMutablePointer<UInt64>?,
    _ bytes: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let session = session(lite), let name = exportedName(text), let handle else { return LITE_EINVAL.code }
    return session.runNamed(LITE_OP_MAP, name) {
        $0.operand = UInt64(rights)
    } collect: {
        handle.pointee = $0.value
        bytes?.pointee = $0.count
    }
}

@_cdecl("lite_unmap")
func exportedUnmap(_ lite: OpaquePointer?, _ handle: UInt64) -> Int32 {
    session(lite)?.manage(LITE_OP_UNMAP, handle) ?? LITE_EINVAL.code
}

@_cdecl("lite_grant")
func exportedGrant(_ lite: OpaquePointer?, _ handle: UInt64, _ user: UInt32, _ rights: UInt32) -> Int32 {
    session(lite)?.manage(LITE_OP_GRANT, handle, UInt64(user), UInt64(rights)) ?? LITE_EINVAL.code
}

@_cdecl("lite_revoke")
func exportedRevoke(_ lite: OpaquePointer?, _ handle: UInt64, _ user: UInt32, _ rights: UInt32) -> Int32 {
    session(lite)?.manage(LITE_OP_REVOKE, handle, UInt64(user), UInt64(rights)) ?? LITE_EINVAL.code
}

// MARK: Data

@_cdecl("lite_read")
func exportedRead(
    _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer?, _ count: UInt64
) -> Int32 {
    guard let session = session(lite), let buffer, let count = Int(exactly: count) else { return LITE_EINVAL.code }
    return session.transfer(LITE_OP_READ, handle, offset, buffer, count)
}

@_cdecl("lite_write")
func exportedWrite(
    _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeRawPointer?, _ count: UInt64
) -> Int32 {
    guard let session = session(lite), let buffer, let count = Int(exactly: count) else { return LITE_EINVAL.code }
    return session.transfer(LITE_OP_WRITE, handle, offset, UnsafeMutableRawPointer(mutating: buffer), count)
}

@_cdecl("lite_read_async")
func exportedReadAsync(
    _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeMutableRawPointer?, _ count: UInt64,
    _ operation: UnsafeMutablePointer<LiteOperationWords>?
) -> Int32 { startExported(LITE_OP_READ, lite, handle, offset, buffer, count, operation) }

@_cdecl("lite_write_async")
func exportedWriteAsync(
    _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ buffer: UnsafeRawPointer?, _ count: UInt64,
    _ operation: UnsafeMutablePointer<LiteOperationWords>?
) -> Int32 {
    startExported(
        LITE_OP_WRITE, lite, handle, offset, buffer.map(UnsafeMutableRawPointer.init(mutating:)), count, operation)
}

@_cdecl("lite_buffer_alloc")
func exportedBufferAlloc(
    _ lite: OpaquePointer?, _ bytes: UInt64, _ buffer: UnsafeMutablePointer<UnsafeMutableRawPointer?>?
) -> Int32 {
    guard let session = session(lite), let buffer else { return LITE_EINVAL.code }
    return session.makeBuffer(bytes, &buffer.pointee)
}

@_cdecl("lite_buffer_free")
func exportedBufferFree(_ lite: OpaquePointer?, _ buffer: UnsafeMutableRawPointer?) -> Int32 {
    guard let session = session(lite), let buffer else { return LITE_EINVAL.code }
    return session.dropBuffer(buffer)
}

/// `lite_operation_t`.
typealias LiteOperationWords = lite_operation

private func startExported(
    _ opcode: lite_opcode, _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64,
    _ buffer: UnsafeMutableRawPointer?, _ count: UInt64, _ words: UnsafeMutablePointer<LiteOperationWords>?
) -> Int32 {
    guard let session = session(lite), let buffer, let words, let count = Int(exactly: count) else {
        return LITE_EINVAL.code
    }
    var operation = LiteOperation(place: 0, generation: 0)
    let status = session.start(opcode, handle, offset, buffer, count, &operation)
    if status == 0 { words.pointee.opaque = (operation.place, operation.generation) }
    return status
}

@_cdecl("lite_wait")
func exportedWait(_ lite: OpaquePointer?, _ words: LiteOperationWords) -> Int32 {
    session(lite)?.finish(LiteOperation(place: words.opaque.0, generation: words.opaque.1)) ?? LITE_EINVAL.code
}

@_cdecl("lite_test")
func exportedTest(_ lite: OpaquePointer?, _ words: LiteOperationWords) -> Int32 {
    session(lite)?.test(LiteOperation(place: words.opaque.0, generation: words.opaque.1)) ?? LITE_EINVAL.code
}

@_cdecl("lite_memset")
func exportedMemset(_ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ byte: Int32, _ count: UInt64) -> Int32
{ session(lite)?.set(handle, offset, UInt8(truncatingIfNeeded: byte), count) ?? LITE_EINVAL.code }

@_cdecl("lite_memcpy")
func exportedMemcpy(
    _ lite: OpaquePointer?, _ to: UInt64, _ toOffset: UInt64, _ from: UInt64, _ fromOffset: UInt64, _ count: UInt64
) -> Int32 { session(lite)?.copy(LITE_OP_COPY, to, toOffset, from, fromOffset, count) ?? LITE_EINVAL.code }

@_cdecl("lite_memmove")
func exportedMemmove(
    _ lite: OpaquePointer?, _ to: UInt64, _ toOffset: UInt64, _ from: UInt64, _ fromOffset: UInt64, _ count: UInt64
) -> Int32 { session(lite)?.copy(LITE_OP_MOVE, to, toOffset, from, fromOffset, count) ?? LITE_EINVAL.code }

@_cdecl("lite_fetch_add")
func exportedFetchAdd(
    _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ add: UInt64, _ former: UnsafeMutablePointer<UInt64>?
) -> Int32 { atomicExported(LITE_OP_FETCH_ADD, lite, handle, offset, add, 0, former) }

@_cdecl("lite_test_set")
func exportedTestSet(
    _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ expected: UInt64, _ desired: UInt64,
    _ former: UnsafeMutablePointer<UInt64>?
) -> Int32 { atomicExported(LITE_OP_COMPARE_SWAP, lite, handle, offset, expected, desired, former) }

private func atomicExported(
    _ opcode: lite_opcode, _ lite: OpaquePointer?, _ handle: UInt64, _ offset: UInt64, _ operand: UInt64,
    _ operand2: UInt64, _ former: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let session = session(lite) else { return LITE_EINVAL.code }
    var value: UInt64 = 0
    let status = session.atomic(opcode, handle, offset, operand, operand2, &value)
    if status >= 0 { former?.pointee = value }
    return status
}
