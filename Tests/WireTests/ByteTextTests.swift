import Testing
import Wire

/// Every sequence of bytes has one text and comes back.
@Suite struct ByteTextTests {
    private func text(_ bytes: [UInt8]) -> String { bytes.withUnsafeBufferPointer { ByteText.text($0) } }

    @Test func textIsItself() {
        for sample in ["", "plain", "grüße", "日本", "🙂", "\u{10FF7F}"] {
            #expect(text(Array(sample.utf8)) == sample)
            #expect(ByteText.bytes(of: sample) == Array(sample.utf8))
        }
    }

    @Test(
        arguments: [
            [0xFF], [0x80], [0x61, 0xFE, 0x62], [0xC0, 0xAF], [0xE2, 0x82], [0xE2, 0x82, 0x41], [0xED, 0xA0, 0x80],
            [0xF4, 0x90, 0x80, 0x80], [0xC3, 0xA9, 0xC3],
            // The private characters themselves.
            [0xF4, 0x8F, 0xBE, 0x80], [0xF4, 0x8F, 0xBF, 0xBF],
        ] as [[UInt8]])
    func bytesComeBack(_ bytes: [UInt8]) {
        let carried = text(bytes)
        #expect(ByteText.bytes(of: carried) == bytes)
        // What carries them is text, and the text of nothing else.
        #expect(carried != text(Array(carried.utf8)))
    }

    @Test func anyBytesComeBack() {
        var state: UInt64 = 1
        for length in 0..<400 {
            let bytes = (0..<length).map { _ -> UInt8 in
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return UInt8(truncatingIfNeeded: state >> 56)
            }
            #expect(ByteText.bytes(of: text(bytes)) == bytes)
        }
    }
}
