package vivo.spice;

import java.io.Reader;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import javax.script.AbstractScriptEngine;
import javax.script.Bindings;
import javax.script.ScriptContext;
import javax.script.ScriptEngine;
import javax.script.ScriptEngineFactory;
import javax.script.SimpleBindings;

/**
 * What SPICE 1.0 asks of "JavaScript", and nothing more: it puts its result, which is JSON already, into "jsonString",
 * lets JavaScript indent it, and writes "result" to its -out file. Java 15 took JavaScript out; SPICE then ends in a
 * NullPointerException after all the work. Here "result" is "jsonString" as it is.
 *
 * Built by tests/build_spice_engine.py (javac --release 8) into spice_engine.jar.
 */
public final class SpiceEngine extends AbstractScriptEngine {
    @Override
    public Object eval(String script, ScriptContext context) {
        Object text = context.getBindings(ScriptContext.ENGINE_SCOPE).get("jsonString");
        context.getBindings(ScriptContext.ENGINE_SCOPE).put("result", text);
        return text;
    }

    @Override
    public Object eval(Reader script, ScriptContext context) {
        return eval("", context);
    }

    @Override
    public Bindings createBindings() {
        return new SimpleBindings();
    }

    @Override
    public ScriptEngineFactory getFactory() {
        return new Factory();
    }

    /** Found through META-INF/services/javax.script.ScriptEngineFactory. */
    public static final class Factory implements ScriptEngineFactory {
        @Override
        public ScriptEngine getScriptEngine() {
            return new SpiceEngine();
        }

        @Override
        public List<String> getNames() {
            return Arrays.asList("JavaScript");
        }

        @Override
        public String getEngineName() {
            return "vivo's stand-in for SPICE";
        }

        @Override
        public String getEngineVersion() {
            return "1";
        }

        @Override
        public List<String> getExtensions() {
            return Collections.emptyList();
        }

        @Override
        public List<String> getMimeTypes() {
            return Collections.emptyList();
        }

        @Override
        public String getLanguageName() {
            return "none";
        }

        @Override
        public String getLanguageVersion() {
            return "1";
        }

        @Override
        public Object getParameter(String key) {
            return null;
        }

        @Override
        public String getMethodCallSyntax(String object, String method, String... arguments) {
            throw new UnsupportedOperationException();
        }

        @Override
        public String getOutputStatement(String text) {
            throw new UnsupportedOperationException();
        }

        @Override
        public String getProgram(String... statements) {
            throw new UnsupportedOperationException();
        }
    }
}
