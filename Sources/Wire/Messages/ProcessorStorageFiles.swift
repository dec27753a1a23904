// Processors speak to storage components: open files and directories. File data moves one-sided, between the storage
// component's staging buffer and the place in the caller's pool that the request names.

// `clearsSetID`: whoever changes the file has no CAP_FSETID, so that its set-user-ID and set-group-ID go, as with the kernel's
// own file systems. The component's threads have that capability, and it is not they who write.

/// Opens a regular file or a directory with the access mode and the O_APPEND, O_TRUNC, O_SYNC and O_DSYNC of open(2).
/// Answered by `StorageProcessorOpened`.
public struct ProcessorStorageOpen: WireMessage, Equatable {
    public var node: UInt64
    public var flags: UInt32
    public var clearsSetID: Bool

    public init(node: UInt64, flags: UInt32, clearsSetID: Bool = false) {
        self.node = node
        self.flags = flags
        self.clearsSetID = clearsSetID
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(node)
        writer.write(flags)
        writer.write(clearsSetID)
    }

    public init?(from reader: inout WireReader) {
        node = reader.read()
        flags = reader.read()
        clearsSetID = reader.readBool()
        if !reader.isValid { return nil }
    }
}

public struct StorageProcessorOpened: WireMessage, Equatable {
    public static let encodedSize = 8 + StorageAttributes.encodedSize
    public var file: UInt64
    /// As of after the open.
    public var attributes: StorageAttributes

    public init(file: UInt64, attributes: StorageAttributes) {
        self.file = file
        self.attributes = attributes
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(file)
        attributes.encode(into: &writer)
    }

    public init?(from reader: inout WireReader) {
        file = reader.read()
        guard let attributes = StorageAttributes(from: &reader) else { return nil }
        self.attributes = attributes
    }
}

public struct StorageProcessorCreated: WireMessage, Equatable {
    public var file: UInt64
    public var entry: StorageEntry

    public init(file: UInt64, entry: StorageEntry) {
        self.file = file
        self.entry = entry
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(file)
        entry.encode(into: &writer)
    }

    public init?(from reader: inout WireReader) {
        file = reader.read()
        guard let entry = StorageEntry(from: &reader) else { return nil }
        self.entry = entry
    }
}

/// `synchronize`: answered, with nothing beside the status, when the data is on disk; with `dataOnly` as fdatasync(2).
public struct ProcessorStorageFile: WireMessage, Equatable {
    public var file: UInt64
    public var dataOnly: Bool

    public init(file: UInt64, dataOnly: Bool = false) {
        self.file = file
        self.dataOnly = dataOnly
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(file)
        writer.write(dataOnly)
    }

    public init?(from reader: inout WireReader) {
        file = reader.read()
        dataOnly = reader.readBool()
        if !reader.isValid { return nil }
    }
}

/// `read` and `write`: `count` bytes from `offset` of the file, to or from `poolOffset` of the caller's pool. Answered
/// by `StorageProcessorCount`: the bytes moved, fewer only at the end of the file or of the disk's space.
public struct ProcessorStorageTransfer: WireMessage, Equatable {
    public var file: UInt64
    public var offset: UInt64
    public var poolOffset: UInt64
    public var count: UInt32
    /// Of `write`.
    public var clearsSetID: Bool

    public init(file: UInt64, offset: UInt64, poolOffset: UInt64, count: UInt32, clearsSetID: Bool = false) {
        self.clearsSetID = clearsSetID
        self.file = file
        self.offset = offset
        self.poolOffset = poolOffset
        self.count = count
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(file)
        writer.write(offset)
        writer.write(poolOffset)
        writer.write(count)
        writer.write(clearsSetID)
    }

    public init?(from reader: inout WireReader) {
        file = reader.read()
        offset = reader.read()
        poolOffset = reader.read()
        count = reader.read()
        clearsSetID = reader.readBool()
        if !reader.isValid || Int(count) > StorageLimit.transferBytes_max
            || offset > UInt64(Int64.max) - UInt64(count)
        {
            return nil
        }
    }
}

/// Bytes moved, or a position.
public struct StorageProcessorCount: WireMessage, Equatable {
    public static let encodedSize = 8
    public var count: UInt64

    public init(count: UInt64) { self.count = count }
    public func encode(into writer: inout WireWriter) { writer.write(count) }
    public init?(from reader: inout WireReader) {
        count = reader.read()
        if !reader.isValid { return nil }
    }
}

/// `allocate` (fallocate(2), `mode` its flags; no answer beside the status) and `seek` (lseek(2), `mode` SEEK_DATA or
/// SEEK_HOLE; answered by `StorageProcessorCount`).
public struct ProcessorStorageRange: WireMessage, Equatable {
    public var file: UInt64
    public var mode: UInt32
    public var offset: UInt64
    public var count: UInt64
    /// Of `allocate`.
    public var clearsSetID: Bool

    public init(file: UInt64, mode: UInt32, offset: UInt64, count: UInt64, clearsSetID: Bool = false) {
        self.clearsSetID = clearsSetID
        self.file = file
        self.mode = mode
        self.offset = offset
        self.count = count
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(file)
        writer.write(mode)
        writer.write(offset)
        writer.write(count)
        writer.write(clearsSetID)
    }

    public init?(from reader: inout WireReader) {
        file = reader.read()
        mode = reader.read()
        offset = reader.read()
        count = reader.read()
        clearsSetID = reader.readBool()
        if !reader.isValid || offset > UInt64(Int64.max) || count > UInt64(Int64.max) - offset { return nil }
    }
}

/// copy_file_range(2) within the storage component. Answered by `StorageProcessorCount`, which may be less than asked
/// for.
public struct ProcessorStorageCopy: WireMessage, Equatable {
    public var source: UInt64
    public var sourceOffset: UInt64
    public var target: UInt64
    public var targetOffset: UInt64
    public var count: UInt64
    public var clearsSetID: Bool

    public init(
        source: UInt64, sourceOffset: UInt64, target: UInt64, targetOffset: UInt64, count: UInt64,
        clearsSetID: Bool = false
    ) {
        self.clearsSetID = clearsSetID
        self.source = source
        self.sourceOffset = sourceOffset
        self.target = target
        self.targetOffset = targetOffset
        self.count = count
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(source)
        writer.write(sourceOffset)
        writer.write(target)
        writer.write(targetOffset)
        writer.write(count)
        writer.write(clearsSetID)
    }

    public init?(from reader: inout WireReader) {
        source = reader.read()
        sourceOffset = reader.read()
        target = reader.read()
        targetOffset = reader.read()
        count = reader.read()
        clearsSetID = reader.readBool()
        let end = UInt64(Int64.max)
        if !reader.isValid || count > end || sourceOffset > end - count || targetOffset > end - count { return nil }
    }
}

/// Reads an open directory from `position` (0: the start; else an entry's `next`). Answered by
/// `StorageDirectoryEntry`s, none at the end. With `entries` each entry carries a counted node, except "." and "..",
/// whose node is 0.
public struct ProcessorStorageReadDirectory: WireMessage, Equatable {
    public var file: UInt64
    public var position: Int64
    public var entries: Bool

    public init(file: UInt64, position: Int64, entries: Bool) {
        self.file = file
        self.position = position
        self.entries = entries
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(file)
        writer.write(position)
        writer.write(entries)
    }

    public init?(from reader: inout WireReader) {
        file = reader.read()
        position = reader.read()
        entries = reader.readBool()
        if !reader.isValid { return nil }
    }
}

public struct StorageDirectoryEntry: WireMessage, @unchecked Sendable {
    /// Where to go on after this entry.
    public var next: Int64
    public var inode: UInt64
    /// DT_* of readdir(3).
    public var type: UInt8
    /// nil when the node was not asked for.
    public var entry: StorageEntry?
    public var name: UnsafeRawBufferPointer

    public init(next: Int64, inode: UInt64, type: UInt8, entry: StorageEntry?, name: UnsafeRawBufferPointer) {
        self.next = next
        self.inode = inode
        self.type = type
        self.entry = entry
        self.name = name
    }

    public func encode(into writer: inout WireWriter) {
        writer.write(next)
        writer.write(inode)
        writer.write(type)
        writer.write(entry != nil)
        entry?.encode(into: &writer)
        writer.write(counted: name)
    }

    public init?(from reader: inout WireReader) {
        next = reader.read()
        inode = reader.read()
        type = reader.read()
        if reader.readBool() {
            guard let entry = StorageEntry(from: &reader) else { return nil }
            self.entry = entry
        } else {
            entry = nil
        }
        name = reader.readCounted(max: StorageLimit.name_max)
        if !reader.isValid { return nil }
    }
}
