import ControlCommands

@main
enum Main {
    static func main() { Legoctl.main() }
}
