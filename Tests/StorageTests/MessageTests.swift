import Testing
import Wire

extension StorageTests {
    /// The bytes of each message are part of the product.
    @Suite struct MessageTests {
        private func hexadecimal(_ message: some WireMessage) -> String {
            let bytes = [UInt8](unsafeUninitializedCapacity: 1024) { buffer, count in
                count = message.encode(into: UnsafeMutableRawBufferPointer(buffer)) ?? 0
            }
            let digits = Array("0123456789abcdef")
            return String(bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
        }

        private func expect<Message: WireMessage & Equatable>(_ message: Message, _ golden: String) {
            #expect(hexadecimal(message) == golden)
            let bytes = stride(from: 0, to: golden.utf8.count, by: 2).compactMap { index in
                UInt8(golden.dropFirst(index).prefix(2), radix: 16)
            }
            bytes.withUnsafeBytes { whole in
                #expect(Message(decoding: whole) == message)
                for count in 0..<whole.count {
                    #expect(Message(decoding: UnsafeRawBufferPointer(rebasing: whole[..<count])) == nil)
                }
            }
        }

        private func name<Result>(_ text: StaticString, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
            body(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
        }

        private var attributes: StorageAttributes {
            var attributes = StorageAttributes()
            attributes.inode = 1
            attributes.size = 2
            attributes.blocks = 3
            attributes.accessSeconds = 4
            attributes.modifySeconds = -1
            attributes.changeSeconds = 6
            attributes.accessNanoseconds = 7
            attributes.modifyNanoseconds = 8
            attributes.changeNanoseconds = 9
            attributes.mode = 0o100644
            attributes.links = 11
            attributes.user = 12
            attributes.group = 13
            attributes.special = 14
            attributes.blockBytes = 4096
            attributes.birth = 16
            return attributes
        }
        private let attributeBytes =
            "0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000" + "ffffffffffffffff"
            + "0600000000000000" + "07000000" + "08000000" + "09000000" + "a4810000" + "0b000000" + "0c000000"
            + "0d000000" + "0e000000" + "00100000" + "1000000000000000"

        @Test func attributesAndEntries() {
            #expect(attributeBytes.utf8.count == StorageAttributes.encodedSize * 2)
            expect(attributes, attributeBytes)
            expect(StorageEntry(node: 0x0102, attributes: attributes), "0201000000000000" + attributeBytes)
            expect(
                StorageProcessorStates(states: [.init(error: 0, attributes: attributes)]),
                "01000000" + "00000000" + attributeBytes)
            expect(StorageProcessorOpened(file: 5, attributes: attributes), "0500000000000000" + attributeBytes)
            expect(
                StorageProcessorCreated(file: 5, entry: StorageEntry(node: 6, attributes: attributes)),
                "0500000000000000" + "0600000000000000" + attributeBytes)
        }

        @Test func requestsWithoutNames() {
            expect(ProcessorStorageAttach(), "03000000")
            expect(ProcessorStorageNode(node: 7), "0700000000000000")
            expect(ProcessorStorageOpen(node: 7, flags: 0x401, clearsSetID: true), "07000000000000000104000001")
            expect(ProcessorStorageFile(file: 7, dataOnly: true), "070000000000000001")
            expect(StorageProcessorCount(count: 9), "0900000000000000")
            expect(StorageProcessorRenamed(moved: 1, replaced: 2), "01000000000000000200000000000000")
            expect(
                ProcessorStorageForget(items: [.init(node: 1, references: 2)], files: [3]),
                "01000000" + "0100000000000000" + "0200000000000000" + "01000000" + "0300000000000000")
            expect(
                ProcessorStorageNames(items: [.init(parent: 1, name: [0x61, 0x62]), .init(parent: 2, name: [])]),
                "02000000" + "0100000000000000" + "02000000" + "6162" + "0200000000000000" + "00000000")
            expect(StorageProcessorStates(states: [.init(error: 2)]), "01000000" + "02000000")
            expect(
                ProcessorStorageTransfer(file: 1, offset: 2, poolOffset: 3, count: 4),
                "010000000000000002000000000000000300000000000000" + "04000000" + "00")
            expect(
                ProcessorStorageRange(file: 1, mode: 3, offset: 4, count: 5, clearsSetID: true),
                "0100000000000000" + "03000000" + "0400000000000000" + "0500000000000000" + "01")
            expect(
                ProcessorStorageCopy(source: 1, sourceOffset: 2, target: 3, targetOffset: 4, count: 5),
                "0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000"
                    + "0500000000000000" + "00")
            expect(
                ProcessorStorageReadDirectory(file: 1, position: -2, entries: true),
                "0100000000000000" + "feffffffffffffff" + "01")
            var change = ProcessorStorageSetAttributes(node: 1, fields: [.mode, .modifyTime])
            change.mode = 0o755
            change.modifySeconds = 5
            change.modifyNanoseconds = 6
            expect(
                change,
                "0100000000000000" + "21000000" + "ed010000" + "00000000" + "00000000" + "0000000000000000"
                    + "0000000000000000" + "0500000000000000" + "00000000" + "06000000")
            var status = StorageFileSystemStatus()
            status.blockBytes = 1
            status.inodesFree = 2
            expect(
                status, "0100000000000000" + String(repeating: "00", count: 32) + "0200000000000000")
        }

        @Test func requestsWithNames() {
            name("ab") { name in
                #expect(
                    hexadecimal(ProcessorStorageName(parent: 1, name: name)) == "0100000000000000" + "02000000" + "6162"
                )
                #expect(
                    hexadecimal(
                        ProcessorStorageMake(
                            parent: 1, mode: 2, user: 3, group: 4, special: 5, flags: 6, name: name, target: name))
                        == "0100000000000000" + "02000000" + "03000000" + "04000000" + "05000000" + "06000000"
                        + "02000000" + "6162" + "02000000" + "6162")
                #expect(
                    hexadecimal(ProcessorStorageLink(node: 1, parent: 2, name: name))
                        == "0100000000000000" + "0200000000000000" + "02000000" + "6162")
                #expect(
                    hexadecimal(
                        ProcessorStorageRename(parent: 1, newParent: 2, flags: 3, name: name, newName: name))
                        == "0100000000000000" + "0200000000000000" + "03000000" + "02000000" + "6162" + "02000000"
                        + "6162")
                #expect(
                    hexadecimal(ProcessorStorageExtended(node: 1, flags: 2, name: name, value: name))
                        == "0100000000000000" + "02000000" + "02000000" + "6162" + "02000000" + "6162")
                #expect(
                    hexadecimal(StorageDirectoryEntry(next: 1, inode: 2, type: 4, entry: nil, name: name))
                        == "0100000000000000" + "0200000000000000" + "04" + "00" + "02000000" + "6162")
            }
        }

        @Test func rangesAreChecked() {
            func refused<Message: WireMessage>(_ message: Message) -> Bool {
                [UInt8](unsafeUninitializedCapacity: 16 << 10) { buffer, count in
                    count = message.encode(into: UnsafeMutableRawBufferPointer(buffer)) ?? 0
                }.withUnsafeBytes { Message(decoding: $0) == nil }
            }
            #expect(refused(ProcessorStorageTransfer(file: 1, offset: 0, poolOffset: 0, count: 1 << 20 + 1)))
            #expect(refused(ProcessorStorageTransfer(file: 1, offset: 1 << 63, poolOffset: 0, count: 0)))
            #expect(refused(ProcessorStorageRange(file: 1, mode: 0, offset: 1 << 62, count: 1 << 62)))
            #expect(refused(ProcessorStorageSetAttributes(node: 1, fields: .init(rawValue: 512))))
            let names = Array(repeating: ProcessorStorageNames.Item(parent: 1, name: []), count: 65)
            #expect(refused(ProcessorStorageNames(items: names)))
            #expect(refused(ProcessorStorageNames(items: [.init(parent: 1, name: Array(repeating: 1, count: 256))])))
            #expect(refused(StorageProcessorStates(states: Array(repeating: .init(error: 1), count: 65))))
            let items = Array(repeating: ProcessorStorageForget.Item(node: 1, references: 1), count: 513)
            #expect(refused(ProcessorStorageForget(items: items)))
            #expect(refused(ProcessorStorageForget(items: [], files: Array(repeating: 1, count: 513))))
        }
    }
}
