// swift-tools-version: 6.2
import PackageDescription

// Layers, dependencies point down only (docs/ARCHITECTURE.md):
//   executables -> *Service -> Lite -> Fabric -> Wire;  Kernel and CLinux serve them all.

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]
/// The targets on the fault path. Their mutable state has one owning thread each (docs/ARCHITECTURE.md), so that a release
/// build need not look overlapping accesses up at run time; debug builds and their tests still do.
let hot: [SwiftSetting] =
    strict + [.unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))]
let strictC: [CSetting] = [.unsafeFlags(["-Wall", "-Wextra", "-Werror"])]

/// The injected agent runs in a foreign address space without a C library: no relocation, no vector register, no call.
let agentC: [CSetting] = [
    .unsafeFlags([
        "-Wall", "-Wextra", "-Werror", "-O2", "-ffreestanding", "-fno-builtin", "-fno-stack-protector",
        "-fno-jump-tables",
        "-fcf-protection=none", "-mgeneral-regs-only", "-mno-red-zone", "-fno-asynchronous-unwind-tables",
    ])
]

/// legoctl starts with every command that a user types: Swift's libraries, linked into it, are there in half the time. The
/// last two are what FoundationEssentials consists of, and does not name.
let staticLibraries: [LinkerSetting] = [
    .unsafeFlags(
        ["-static-stdlib", "-l_FoundationCollections", "-l_FoundationCShims"], .when(configuration: .release))
]

let log = Target.Dependency.product(name: "Logging", package: "swift-log")
let metrics = Target.Dependency.product(name: "CoreMetrics", package: "swift-metrics")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
/// What every daemon's executable needs beside its service.
let frame: [Target.Dependency] = ["Daemon", "RackConfiguration", "Lite", "Fabric", "Kernel", "Wire", log, arguments]
let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")

let package = Package(
    name: "lego",
    products: [
        .executable(name: "lego-manager", targets: ["lego-manager"]),
        .executable(name: "lego-memory", targets: ["lego-memory"]),
        .executable(name: "lego-storage", targets: ["lego-storage"]),
        .executable(name: "lego-processor", targets: ["lego-processor"]),
        .executable(name: "lego-sandbox", targets: ["lego-sandbox"]),
        .executable(name: "legoctl", targets: ["legoctl"]),
        .executable(name: "lego-config", targets: ["lego-config"]),
        .executable(name: "lego-lite", targets: ["lego-lite"]),
        .library(name: "lite", type: .dynamic, targets: ["LiteClient"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.90.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.6.0"),
    ],
    targets: [
        // C: system libraries, shims by kernel facility, the injected agent, the sandbox's first process.
        .systemLibrary(
            name: "CVerbs", pkgConfig: "libibverbs", providers: [.apt(["libibverbs-dev"])]),
        .systemLibrary(
            name: "CRdmaCM", pkgConfig: "librdmacm", providers: [.apt(["librdmacm-dev"])]),
        .systemLibrary(name: "CNuma", pkgConfig: "numa", providers: [.apt(["libnuma-dev"])]),
        .systemLibrary(name: "CFuse", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
        .target(name: "CLinux", cSettings: strictC),
        .target(name: "CLite", cSettings: strictC),
        .target(name: "CAgent", cSettings: agentC),
        .executableTarget(name: "lego-sandbox", dependencies: ["CLinux"], cSettings: strictC),

        // Swift: kernel handles, wire formats, fabric, Lite.
        .target(name: "Kernel", dependencies: ["CLinux"], swiftSettings: strict),
        .target(name: "Wire", swiftSettings: strict),
        .target(
            name: "Fabric", dependencies: ["Kernel", "Wire", "CLinux", "CVerbs", "CRdmaCM", "CNuma"],
            swiftSettings: hot),
        .target(name: "Lite", dependencies: ["Fabric", "Kernel", "Wire", "CLinux"], swiftSettings: hot),

        // LITE for programs: the client library (also liblite.so, for C) and the node service behind it.
        .target(name: "LiteClient", dependencies: ["CLite", "CLinux", "Kernel"], swiftSettings: strict),
        .target(
            name: "LiteService", dependencies: ["CLite", "CLinux", "Lite", "Fabric", "Kernel", "Wire", log],
            swiftSettings: strict),

        // Configuration: schemas, their default files, what is set. And its files, apart: the TOML library brings Foundation along.
        .target(name: "RackConfiguration", dependencies: ["Kernel", "Wire"], swiftSettings: strict),
        .target(
            name: "ConfigurationFiles",
            dependencies: ["RackConfiguration", "Kernel", .product(name: "TOMLKit", package: "TOMLKit")],
            swiftSettings: strict),

        // The frame that all daemons share: arguments, logging, signals, registration and heartbeats.
        .target(
            name: "Daemon",
            dependencies: [
                "ConfigurationFiles", "RackConfiguration", "Lite", "Fabric", "Kernel", "Wire", "CLinux", log, arguments,
            ],
            swiftSettings: strict),
        .target(name: "ManagementAPI", dependencies: ["Kernel", "Wire"], swiftSettings: strict),
        .target(
            name: "ControlCommands",
            dependencies: ["RackConfiguration", "ManagementAPI", "Kernel", "Wire", "CLinux", arguments],
            swiftSettings: strict),

        // One service per component.
        .target(
            name: "MemoryService", dependencies: ["Lite", "Kernel", "Wire", log], swiftSettings: strict),
        .target(
            name: "StorageService", dependencies: ["Lite", "Kernel", "Wire", "CLinux", log, system],
            swiftSettings: strict),
        .target(
            name: "StorageMount", dependencies: ["Lite", "Kernel", "Wire", "CFuse", "CLinux", log],
            swiftSettings: strict),
        .target(
            name: "ProcessorService",
            dependencies: [
                "Daemon", "RackConfiguration", "StorageMount", "Lite", "Kernel", "Wire", "CLinux", "CAgent", "CFuse",
                log,
            ],
            swiftSettings: hot),
        .target(
            name: "ManagerService",
            dependencies: [
                "ManagementAPI", "Lite", "Fabric", "Kernel", "Wire", "CLinux", log, metrics,
                .product(name: "Hummingbird", package: "hummingbird"), .product(name: "GRDB", package: "GRDB.swift"),
                .product(name: "HummingbirdCore", package: "hummingbird"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ],
            swiftSettings: strict),

        // Thin executables.
        .executableTarget(
            name: "lego-memory", dependencies: ["MemoryService", "LiteService", "CLinux"] + frame, swiftSettings: strict
        ),
        .executableTarget(
            name: "lego-storage", dependencies: ["StorageService"] + frame, swiftSettings: strict),
        .executableTarget(
            name: "lego-processor", dependencies: ["ProcessorService", "StorageMount"] + frame, swiftSettings: strict),
        .executableTarget(
            name: "lego-manager", dependencies: ["ManagerService"] + frame, swiftSettings: strict),
        .executableTarget(
            name: "lego-lite", dependencies: ["LiteService", "CLinux"] + frame, swiftSettings: strict),
        .executableTarget(
            name: "lego-config", dependencies: ["ConfigurationFiles", "RackConfiguration"], swiftSettings: strict),
        .executableTarget(
            name: "legoctl", dependencies: ["ControlCommands"], swiftSettings: strict, linkerSettings: staticLibraries),

        .executableTarget(
            name: "lego-bench-storage",
            dependencies: ["StorageService", "StorageMount", "Lite", "Kernel", log], swiftSettings: strict),

        // What the benchmarks of the fabric and of LITE share: processes in roles, a bare device, latencies.
        .target(name: "BenchSupport", dependencies: ["Fabric", "Kernel", "Wire"], swiftSettings: strict),

        // Latency of Lite beside that of the bare device; needs nothing but the fabric.
        .executableTarget(
            name: "lego-bench-fabric", dependencies: ["BenchSupport", "Lite", "Fabric", "Kernel", "Wire"],
            swiftSettings: strict),

        // Latency and throughput of LITE's programs beside the bare device; needs nothing but itself.
        .executableTarget(
            name: "lego-bench-lite",
            dependencies: [
                "BenchSupport", "LiteClient", "LiteService", "CLinux", "Lite", "Fabric", "Kernel", "Wire", log,
            ],
            swiftSettings: strict),

        .testTarget(name: "WireTests", dependencies: ["Wire"], swiftSettings: strict),
        .testTarget(name: "FabricTests", dependencies: ["Fabric", "Kernel", "Wire", "CLinux"], swiftSettings: strict),
        .testTarget(
            name: "LiteTests", dependencies: ["Lite", "Fabric", "Kernel", "Wire", "CLinux"], swiftSettings: strict),
        .testTarget(
            name: "LiteClientTests",
            dependencies: ["LiteClient", "LiteService", "CLite", "Lite", "Fabric", "Kernel", "Wire", "CLinux", log],
            exclude: ["Programs"], swiftSettings: strict),
        .testTarget(name: "MemoryTests", dependencies: ["MemoryService", "Lite"], swiftSettings: strict),
        .testTarget(
            name: "StorageTests",
            dependencies: ["StorageService", "StorageMount", "Lite", "Fabric", "Kernel", "Wire", "CLinux", log],
            exclude: ["Scripts"], swiftSettings: strict),
        .testTarget(
            name: "ProcessorTests",
            dependencies: ["ProcessorService", "MemoryService", "Fabric", "Lite", "Kernel", "Wire", "CLinux", log],
            exclude: ["Programs"], swiftSettings: strict),
        .testTarget(
            name: "ManagerTests", dependencies: ["ManagerService", "MemoryService", "ManagementAPI", "Lite"],
            swiftSettings: strict),
        .testTarget(
            name: "ControlTests",
            dependencies: [
                "ControlCommands", "lego-memory", "LiteClient", "ConfigurationFiles", "RackConfiguration", "Daemon",
                "ManagementAPI", "Lite", "Fabric", "Kernel", "Wire", log,
            ],
            swiftSettings: strict),
        .testTarget(
            name: "RackTests", dependencies: ["ManagementAPI", "Kernel"], exclude: ["Programs"], swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .gnu17
)

// A build for a sanitizer holds some test targets only: Scripts/test.sh --sanitize names them.
if let names = Context.environment["LEGO_TEST_TARGETS"] {
    let kept = Set(names.split(separator: " ").map(String.init))
    package.targets.removeAll { $0.type == .test && !kept.contains($0.name) }
}
