import Testing
import Wire

@Suite struct CodecTests {
    @Test func integersAreLittleEndianAndUnaligned() {
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = bytes.withUnsafeMutableBytes { buffer in
            var writer = WireWriter(buffer)
            writer.write(UInt8(1))
            writer.write(UInt16(0x0302))
            writer.write(UInt32(0x0706_0504))
            writer.write(Int64(-2))
            return writer.finish
        }
        #expect(count == 15)
        #expect(bytes == [1, 2, 3, 4, 5, 6, 7, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0])
    }

    @Test func anOverflowIsRememberedEvenIfLaterValuesFit() {
        var bytes = [UInt8](repeating: 0, count: 3)
        bytes.withUnsafeMutableBytes { buffer in
            var writer = WireWriter(buffer)
            writer.write(UInt32(1))
            writer.write(UInt8(1))
            #expect(writer.finish == nil)
        }
    }

    @Test func anUnderflowIsRememberedEvenIfLaterValuesAreThere() {
        [UInt8](repeating: 1, count: 3).withUnsafeBytes { bytes in
            var reader = WireReader(bytes)
            let (beyond, inside) = (reader.read(UInt32.self), reader.read(UInt8.self))
            #expect(beyond == 0 && inside == 1)
            #expect(!reader.isValid)
            #expect(!reader.isComplete)
        }
    }

    @Test func lengthsBeyondTheMessageAreRefused() {
        let cases: [[UInt8]] = [
            [0xFF, 0xFF, 0xFF, 0xFF], [5, 0, 0, 0, 1, 2, 3, 4], [0, 0, 0, 0x80, 1], [1, 0, 0], [],
        ]
        for bytes in cases {
            bytes.withUnsafeBytes { buffer in
                var counted = WireReader(buffer)
                _ = counted.readCounted(max: .max)
                #expect(!counted.isValid)
                var texts = WireReader(buffer)
                let noTexts = texts.readStrings(maxCount: .max, max: .max)
                #expect(noTexts.isEmpty && !texts.isValid)
                var raw = WireReader(buffer)
                let noBytes = raw.read(raw: -1)
                #expect(noBytes.isEmpty && !raw.isValid)
            }
        }
    }

    @Test func textsMustBeUTF8AndBooleansZeroOrOne() {
        let invalid: [UInt8] = [2, 0, 0, 0, 0xC3, 0x28]
        invalid.withUnsafeBytes { buffer in
            var reader = WireReader(buffer)
            _ = reader.readString(max: 10)
            #expect(!reader.isValid)
        }
        [UInt8(2)].withUnsafeBytes { buffer in
            var reader = WireReader(buffer)
            let value = reader.readBool()
            #expect(!value && !reader.isValid)
        }
    }

    @Test func anEmptyBufferHoldsTheEmptyMessageOnly() {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        #expect(Acknowledgement(decoding: nothing) != nil)
        #expect(ManagerComponentHeartbeat(decoding: nothing) == nil)
    }
}
