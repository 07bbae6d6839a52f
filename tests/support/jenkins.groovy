// SPDX-License-Identifier: Apache-2.0
// Reads a declarative Jenkinsfile by running it as the Groovy that it is, and prints what it says as JSON. A section, an
// option, a condition or a step that is not listed below ends with its name; nothing of the file does anything.
// Usage: groovy jenkins.groovy JENKINSFILE. The lists follow Jenkins' handbook, "Pipeline Syntax", and are not all of it.
import groovy.json.JsonOutput

class Section {
  String name; Map<String, Closure> known; Map<String, List> found = [:]

  Object invokeMethod(String word, Object given) {
    if (!known.containsKey(word)) throw new IllegalArgumentException("`${name}` has no `${word}`")
    found.computeIfAbsent(word) { [] } << known[word].call(*(given as List))
    null
  }

  Map read(Closure body) {
    body.delegate = this
    body.resolveStrategy = Closure.DELEGATE_ONLY
    body.call()
    found
  }
}

class Variables {
  Map values = [:]
  Object getProperty(String word) { word == 'values' ? values : word == 'env' ? [WORKSPACE: '@WORKSPACE@'] : unknown(word) }
  void setProperty(String word, Object value) { values[word] = value.toString() }
  Object credentials(String id) { "@credentials(${id})@" }
  Object unknown(String word) { throw new IllegalArgumentException("`environment` knows no `${word}`") }

  Map read(Closure body) {
    body.delegate = this
    body.resolveStrategy = Closure.DELEGATE_ONLY
    body.call()
    values
  }
}

class Reader {
  static one(Map found, String name, String... words) {
    words.each { if (found[it]?.size() != 1) throw new IllegalArgumentException("`${name}` needs one `${it}`") }
    found
  }
  static value = { it.toString() }
  static table = { Map named -> named }
  static nothing = { -> true }
  static environment = { Closure body -> new Variables().read(body) }
  static steps = { Closure body ->
    def order = []
    def keep = { word -> { Object given -> order << [word, given instanceof Map ? given : given.toString()] } }
    def known = ['sh', 'echo', 'junit', 'archiveArtifacts'].collectEntries { [it, keep(it)] }
    new Section(name: 'steps', known: known).read(body)
    if (!order) throw new IllegalArgumentException('`steps` needs a step')
    order
  }
  static stage = { String title, Closure body ->
    def when = { Closure inner -> new Section(name: 'when', known: [changeRequest: nothing, branch: value]).read(inner) }
    def found = new Section(name: 'stage', known: [when: when, environment: environment, steps: steps]).read(body)
    one(found, 'stage', 'steps') + [title: title]
  }
  static pipeline = { Closure body ->
    def docker = { Closure inner -> one(new Section(name: 'docker', known: [image: value, args: value]).read(inner), 'docker', 'image') }
    def agent = { Closure inner -> new Section(name: 'agent', known: [docker: docker]).read(inner) }
    def options = { Closure inner -> new Section(name: 'options', known: [disableConcurrentBuilds: nothing, timeout: table]).read(inner) }
    def stages = { Closure inner -> new Section(name: 'stages', known: [stage: stage]).read(inner).stage }
    def post = { Closure inner ->
      new Section(name: 'post', known: ['always', 'success', 'failure', 'changed'].collectEntries { [it, steps] }).read(inner)
    }
    def known = [agent: agent, options: options, environment: environment, stages: stages, post: post]
    one(new Section(name: 'pipeline', known: known).read(body), 'pipeline', 'agent', 'stages')
  }
}

def script = new GroovyShell().parse(new File(args[0]))
def said = null
script.metaClass.pipeline = { Closure body -> said = Reader.pipeline(body) }
script.run()
if (said == null) throw new IllegalArgumentException('there is no `pipeline`')
println JsonOutput.toJson(said)
