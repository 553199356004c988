"""Writes cases.json: small templates, and what transformers renders of each, or null where it raises an error.

Run with `pip install transformers==5.24.0 jinja2==3.1.6`; prints how many cases of each kind there are.
"""

import json
import pathlib
import warnings

import jinja2
import transformers
import transformers.utils.chat_template_utils as utils

warnings.simplefilter("ignore")

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " <b>2 & 2</b> 'é' \"q\"\n\u2603\t"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "look it up",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 3, "scale": 0.5, "raw": None, "deep": [True, {"a": []}]}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "18C"},
    {"role": "assistant", "content": "It is 18C."},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " now?"}]},
]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The \"weather\"\nof a place",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "items": {"type": "array", "items": {"type": "integer"}, "minimum": 1.0},
                    "get": {"type": "string", "default": None},
                },
                "required": ["city"],
            },
        },
    }
]

KWARGS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "enable_thinking": False,
    "number": 7,
    "half": 0.5,
    "words": ["b", "a", "C", "a"],
    "table": {"b": 2, "a": 1, "C": 3},
    "people": [{"name": "Bo", "age": 3, "town": "x"}, {"name": "al", "age": 5, "town": "y"}, {"name": "Cy", "age": 3, "town": "x"}],
    "nothing": None,
    "empty": [],
}

# One template a line, "\n" as in Python; grouped by what they try.
TEMPLATES = r'''
# Values as they are printed
{{ none }} {{ true }} {{ false }} {{ None }} {{ True }} {{ False }}
{{ nothing }}|{{ undefined_name }}|{{ messages[99] }}|{{ table.zzz }}|{{ table['zzz'] }}
{{ 1 }} {{ -1 }} {{ 1.0 }} {{ 0.1 }} {{ 1e-5 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789.123 }} {{ 1e22 }} {{ 1e300 }} {{ 0.0001 }} {{ 0.00001234 }}
{{ 1_000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 2.5E-3 }}
{{ [1, 'a', none, true, 1.0, 'it\'s', "\"", 'é\n\t\\'] }}
{{ {'a': 1, 'b': [none, {}], 3: 'c', true: 2} }}
{{ () }} {{ (1,) }} {{ (1, 'b') }} {{ [] }} {{ {} }} {{ '' }}
{{ messages[2] }}
{{ messages[1] }}
{{ tools }}
{{ ['\x00\x7f\xa0\u2028😀', '\'', '"', '\'"'] }}
{{ [1e-05, 1e16, -0.0, 100.0] }} {{ -0.0 }}
{{ messages[5].content }}
{{ '\U0001f600' }}
{{ [undefined_name] }}
{{ range(3) }} {{ range(1, 10, 3) }}
{{ table.items() }} {{ table.keys() }} {{ table.values() }}
{{ table.items() | list }} {{ table.keys() | list }} {{ table.values() | list }}
{{ 'a\x41\u00e9\101\n\'\"\\ \q' }}
{{ "tab\there" ~ 'new\nline' }}
{{ 'a' 'b' "c" }}
{{ 9999999999999999999 }} {{ 2**64 }} {{ 2**100 }}
# Arithmetic
{{ 7 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }}
{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}
{{ 1 + 2.0 }} {{ 1 - 1.0 }} {{ 3 * 1.5 }} {{ true + 1 }} {{ true + true }} {{ false * 3 }}
{{ 'ab' * 3 }} {{ [1, 2] * 2 }} {{ 3 * 'x' }} {{ 'a' * 0 }} {{ 'a' * -1 }}
{{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ 'a' ~ 1 ~ none ~ 1.0 ~ [1] ~ true }}
{{ undefined_name ~ 'x' }}
{{ undefined_name + 'x' }}
{{ none + 'x' }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 5 % 0 }}
{{ '%s is %d, %.2f, %5s|%-5s|%05d|%x|%%' % ('a', 3, 1.5, 'b', 'c', 42, 255) }}
{{ '%s' % 'a' }} {{ '%r' % 'a' }} {{ '%s' % none }} {{ '%s' % [1, 'b'] }}
{{ '%(a)s-%(b)s' % {'a': 1, 'b': 'x'} }}
{{ '%d' % 'a' }}
{{ '{} {}'.format('a', 1) }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=1.0) }} {{ '{:>5}|{:<5}|{:^5}|{:05.1f}'.format('a', 'b', 'c', 2.25) }} {{ '{{}}'.format() }}
{{ '{:,}'.format(1234567) }}
{{ '{!r}'.format('a') }}
{{ '{a[b]}'.format(a={'b': 3}) }}
{{ -number }} {{ - 3 | abs }} {{ -3 | abs }}
{{ +number }}
{{ 1 == 1.0 }} {{ 'a' == 'a' }} {{ none == none }} {{ [1] == [1] }} {{ {} == {} }} {{ true == 1 }} {{ 1 == '1' }} {{ undefined_name == none }} {{ undefined_name == other_name }}
{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 != 2 }} {{ 1 <= 1 }} {{ 2 >= 3 }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ not true }} {{ not '' }} {{ not none }} {{ 1 and 2 }} {{ 0 or 'x' }} {{ '' or none }} {{ none and 1 }} {{ 0 and 1 }}
{{ 'a' in 'abc' }} {{ 'a' in ['a'] }} {{ 'a' in {'a': 1} }} {{ 1 in [1.0] }} {{ 'x' not in 'abc' }} {{ 1 in undefined_name }} {{ 'b' in table }} {{ '' in 'abc' }}
{{ 1 in 'abc' }}
{{ 'a' in none }}
{{ 'a' if true }} {{ 'a' if false }}| {{ 'a' if false else 'b' }} {{ 'a' if 0 else 'b' if 0 else 'c' }}
{{ 1 if undefined_name else 2 }} {{ 1 if undefined_name is defined and undefined_name else 2 }}
# Undefined
{{ undefined_name.attribute }}
{{ undefined_name['item'] }}
{{ undefined_name() }}
{{ table.zzz.yyy }}
{{ none.attribute }}|
{{ none['x'] }}|
{{ undefined_name | length }} {{ undefined_name | default('d') }} {{ nothing | default('d') }} {{ nothing | default('d', true) }} {{ '' | default('d') }} {{ '' | default('d', boolean=true) }}
{% for x in undefined_name %}x{% else %}none{% endfor %}
{% for x in none %}x{% endfor %}
{% for x in 5 %}x{% endfor %}
{{ undefined_name | upper }}|{{ undefined_name | list }}|{{ undefined_name | join(',') }}|{{ undefined_name | string }}|{{ undefined_name | trim }}
{{ undefined_name | int }} {{ undefined_name | tojson }}
{{ tools is none }} {{ documents is none }} {{ documents is defined }} {{ tools is defined }} {{ undefined_name is defined }}
{{ undefined_name.x is defined }}
{{ table.zzz is defined }} {{ messages[0].tool_calls is defined }} {{ messages[0]['tool_calls'] is none }} {{ messages[0].get('tool_calls') is none }}
{{ undefined_name < 1 }}
{{ -undefined_name }}
# Tests
{{ none is iterable }} {{ 'a' is iterable }} {{ [] is iterable }} {{ {} is iterable }} {{ 1 is iterable }} {{ undefined_name is iterable }} {{ range(2) is iterable }} {{ true is iterable }}
{{ none is sequence }} {{ 'a' is sequence }} {{ [] is sequence }} {{ {} is sequence }} {{ 1 is sequence }} {{ undefined_name is sequence }} {{ range(2) is sequence }} {{ () is sequence }}
{{ none is mapping }} {{ 'a' is mapping }} {{ [] is mapping }} {{ {} is mapping }} {{ namespace() is mapping }} {{ undefined_name is mapping }}
{{ 1 is number }} {{ 1.0 is number }} {{ true is number }} {{ '1' is number }} {{ none is number }}
{{ 1 is integer }} {{ 1.0 is integer }} {{ true is integer }} {{ 1 is float }} {{ 1.0 is float }}
{{ true is boolean }} {{ 1 is boolean }} {{ none is boolean }} {{ 1 is true }} {{ true is true }} {{ false is false }} {{ 0 is false }}
{{ 'a' is string }} {{ 1 is string }} {{ none is string }} {{ ('a' | safe) is string }} {{ undefined_name is string }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'aBC' is upper }} {{ '1' is lower }} {{ '' is upper }}
{{ 1 is eq 1 }} {{ 1 is equalto(1) }} {{ 1 is ne 2 }} {{ 2 is gt 1 }} {{ 2 is ge 2 }} {{ 1 is lt 2 }} {{ 1 is le 0 }} {{ 1 is sameas 1 }} {{ true is sameas true }} {{ 1 is sameas true }} {{ none is sameas none }}
{{ 2 is greaterthan 1 }} {{ 1 is lessthan 2 }}
{{ 1 is in [1, 2] }} {{ 3 is not in [1, 2] }} {{ 'a' is in 'abc' }}
{{ range is callable }} {{ 1 is callable }} {{ raise_exception is callable }} {{ strftime_now is defined }} {{ raise_exception is defined }}
{{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ 'nope' is test }}
{{ 'a' is escaped }} {{ ('a' | safe) is escaped }}
{{ none is none }} {{ undefined_name is none }} {{ undefined_name is undefined }} {{ none is defined }} {{ none is not none }}
{{ 1 is nosuchtest }}
{{ not 1 is odd }} {{ (1 is odd) and not (2 is odd) }} {{ 1 is odd and 2 is even }}
{{ 'abc' is startingwith 'a' }}
{{ 'a' is odd }}
# Filters
{{ 'abc' | upper }} {{ 'ABC' | lower }} {{ 'hello world' | title }} {{ 'hELLO wORLD' | capitalize }} {{ "it's o'neil-smith (foo) [bar] {x}_y" | title }}
{{ ' a b ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ none | trim }} {{ 5 | trim }}
{{ 'aXbXc' | replace('X', '-') }} {{ 'aXbXc' | replace('X', '-', 1) }} {{ 'aaa' | replace('', '-') }} {{ 5 | replace('5', '6') }}
{{ [1, 2] | length }} {{ 'héé' | length }} {{ table | length }} {{ table | count }} {{ () | length }} {{ range(5) | length }}
{{ 5 | length }}
{{ none | length }}
{{ words | first }} {{ words | last }} {{ 'abc' | first }} {{ 'abc' | last }} {{ empty | first }}| {{ empty | last }}| {{ table | first }} {{ '' | first }}|
{{ words | join }} {{ words | join(', ') }} {{ [1, none, true, 1.0] | join('-') }} {{ people | join('+', attribute='name') }} {{ 'abc' | join('-') }} {{ table | join }}
{{ words | sort }} {{ words | sort(reverse=true) }} {{ words | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='age,name') | map(attribute='name') | list }} {{ [3, 1, 2] | sort }} {{ [3, 1.5, 2] | sort(true) }}
{{ [1, 'a'] | sort }}
{{ words | unique | list }} {{ ['a', 'A', 'b'] | unique(case_sensitive=true) | list }} {{ people | unique(attribute='town') | map(attribute='name') | list }}
{{ table | dictsort }} {{ table | dictsort(case_sensitive=true) }} {{ table | dictsort(by='value') }} {{ table | dictsort(reverse=true) }} {{ table | dictsort(false, 'value', true) }}
{{ people | groupby('town') | map(attribute='grouper') | list }} {% for town, list in people | groupby('town') %}{{ town }}:{{ list | map(attribute='name') | join(',') }};{% endfor %}
{% for group in people | groupby('age') %}{{ group.grouper }}={{ group.list | length }}{{ group[0] }} {% endfor %}
{{ people | groupby('zzz', default='d') | map('first') | list }}
{{ people | selectattr('age', 'equalto', 3) | map(attribute='name') | list }} {{ people | rejectattr('age', 'eq', 3) | list | length }} {{ people | selectattr('zzz') | list }} {{ people | selectattr('age', 'gt', 3) | list }} {{ people | selectattr('zzz', 'defined') | list }} {{ people | selectattr('zzz', 'undefined') | list | length }}
{{ [1, 2, 3] | select('odd') | list }} {{ [1, 2, 3] | reject('odd') | list }} {{ [0, 1, '', none] | select | list }} {{ [0, 1, ''] | reject | list }} {{ [1, 2, 3] | select('in', [1, 3]) | list }} {{ [1,2,3] | select('divisibleby', 3) | list }}
{{ words | map('upper') | list }} {{ words | map('upper') | join }} {{ people | map(attribute='name') | list }} {{ people | map(attribute='zzz', default='d') | list }} {{ [[1, 2], [3]] | map('length') | list }} {{ [[1, 2], [3]] | map('first') | list }} {{ ['a'] | map('replace', 'a', 'b') | list }} {{ people | map(attribute='zzz') | list }}
{{ tools | map(attribute='function.name') | list }} {{ [[1, [2]]] | map(attribute='1.0') | list }} {{ [[1, 2]] | map(attribute=1) | list }}
{{ (words | map('upper')) | length }}
{{ (words | select) | length }}
{{ (words | map('upper'))[0] }}
{{ words | map('upper') | first }} {{ words | map('upper') | sort }} {{ words | select | last }}
{{ words | reverse | list }} {{ 'abc' | reverse }} {{ [] | reverse | list }} {{ table | reverse | list }}
{{ (words | reverse) | length }}
{% if [] | select %}full{% else %}empty{% endif %} {% if people | selectattr('age', 'equalto', 99) %}full{% else %}empty{% endif %} {% if [] | map('upper') %}full{% else %}empty{% endif %} {% if [] | reverse %}full{% else %}empty{% endif %} {% if {}.items() %}full{% else %}empty{% endif %} {% if [] | batch(2) %}full{% else %}empty{% endif %}
{% set g = words | map('upper') %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% endfor %}|{{ g | list }}
{% set g = words | map('upper') %}{{ 'B' in g }} {{ 'B' in g }} {{ 'C' in g }}
{% set g = table.items() %}{% for k, v in g %}{{ k }}{% endfor %}|{% for k, v in g %}{{ v }}{% endfor %}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ [1, 2, 3, 4, 5] | slice(2) | list }} {{ [1, 2, 3, 4, 5] | slice(3, 'x') | list }}
{{ [1, 2, 3] | sum }} {{ people | sum(attribute='age') }} {{ [] | sum }} {{ [1] | sum(start=10) }} {{ [1.5, 2] | sum }}
{{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ ['b', 'A'] | min }} {{ ['b', 'A'] | max(case_sensitive=true) }} {{ people | max(attribute='age') }} {{ [] | min }}|
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.99 | round(1, 'floor') }} {{ 42 | round }} {{ 1234 | round(-2) }} {{ 2.675 | round(2) }} {{ 0.5 | round }} {{ 1.5 | round | int }}
{{ '42' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '3.9' | int }} {{ '0x1f' | int(0, 16) }} {{ none | int }} {{ true | int }} {{ ' 5 ' | int }} {{ '-3' | int }}
{{ '4.2' | float }} {{ 'x' | float }} {{ 3 | float }} {{ none | float(1.5) }} {{ '1e3' | float }}
{{ 5 | string }} {{ none | string }} {{ [1] | string }} {{ 1.0 | string }} {{ true | string | upper }}
{{ 'abc' | list }} {{ table | list }} {{ (1, 2) | list }} {{ range(3) | list }}
{{ -5 | abs }} {{ (-5.5) | abs }} {{ 'x' | default('y') }}
{{ 'a\nb\nc' | indent }}| {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(2) }} {{ 'a\n\nb' | indent(2, blank=true) }} {{ 'a\nb' | indent('> ') }} {{ 'a\nb\n' | indent(2) }}|
{{ '<a href="x">&\'' | e }} {{ '<' | escape }} {{ '<' | safe }} {{ '<' | forceescape }} {{ 5 | e }} {{ ('<' + '>') | safe }} {{ '<tools>' ~ 'x' | tojson | safe }}
{{ ('<' | e) ~ '<' }}
{{ ('<' | e) | e }}
{% set x = '<' | safe %}{{ x + '<' }}
{{ ('<' | e) + '<' }}
{{ '<' | safe + '<' }}
{{ table | items | list }} {% for k, v in table | items %}{{ k }}{{ v }}{% endfor %} {{ undefined_name | items | list }}
{{ words | items | list }}
{{ '%s-%s' | format('a', 1) }} {{ '%(x)s' | format(x=3) }} {{ '%.1f' | format(2.25) }}
{{ 'one two three' | wordcount }} {{ 'abc' | center(9) }}| {{ 'hello world foo' | truncate(9) }} {{ 'hello world foo' | truncate(9, true) }} {{ 'hello world foo' | truncate(9, true, '', 0) }} {{ 'short' | truncate(5) }}
{{ [1, 'a', {'b': none}] | pprint }}
{{ people[0] | attr('name') }}|{{ 'abc' | attr('zzz') }}|
{{ 'a b' | urlencode }}
{{ {'a': 1} | xmlattr }}
{{ '<p>x</p>' | striptags }}
{{ 1000 | filesizeformat }}
{{ 'aaa bbb' | wordwrap(3) }}
{{ 'x' | nosuchfilter }}
{{ words | random is string }}
{{ 'abc' | upper | lower | title | replace('A', 'x') }}
{{ 1 | upper }} {{ none | lower }} {{ true | title }}
{{ words | join(undefined_name) }}
{{ 'a,b' | split(',') }}
{{ 'a' | bool }}
{{ [1] | zip([2]) | list }}
{{ 'a\nb' | lines }}
{{ [1] | chain([2]) | list }}
{{ debug() }}
# JSON
{{ messages[2] | tojson }}
{{ tools | tojson }}
{{ tools[0] | tojson(indent=4) }}
{{ tools[0] | tojson(indent=2) }}
{{ 'é☃😀"\\/\n\t\x01\x7f\u2028<>&\'' | tojson }}
{{ 'é☃😀\x7f' | tojson(ensure_ascii=true) }} {{ {'é': 1} | tojson(ensure_ascii=True) }}
{{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {'b': [1], 'a': {}} | tojson(indent=1, separators=(',', ': '), sort_keys=true) }} {{ [1] | tojson(indent=0) }} {{ [] | tojson(indent=2) }} {{ [1] | tojson(false, 2) }} {{ [1, [2]] | tojson(indent='--') }} {{ [1] | tojson(indent=none) }} {{ [1] | tojson(indent=-1) }}
{{ [1, 1.0, 1e-05, 1e16, true, none, 'a', [], {}, (1, 2), -0.0, 123456789012345678] | tojson }}
{{ {1: 'a', true: 'b', none: 'c', 1.5: 'd'} | tojson }}
{{ {(1, 2): 'a'} | tojson }}
{{ undefined_name | tojson }}
{{ range(3) | tojson }}
{{ table.items() | tojson }}
{{ words | map('upper') | tojson }}
{{ namespace(a=1) | tojson }}
{{ ('<' | safe) | tojson }} {{ none | tojson }} {{ 'a' | tojson | length }}
{{ [1] | tojson(nosuch=1) }}
{{ 1 | tojson | upper }} {{ '"' ~ ('a' | tojson) ~ '<' }} {{ ({'a': 'b'} | tojson) + '<' }} {{ ('a' | tojson).replace('"', '<') }}
{{ [undefined_name] | tojson }}
{{ dict(a=1) | tojson }}
# Methods of texts
{{ ' a '.strip() }}| {{ 'xax'.strip('x') }} {{ ' a '.lstrip() }}| {{ ' a '.rstrip() }}| {{ 'abcab'.lstrip('ba') }} {{ '\u00a0\u2003a\x1f'.strip() }}|
{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ ' a  b c '.split(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.split('b')[-1] }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a,b'.split(sep=',', maxsplit=1) }}
{{ 'a'.split('') }}
{{ 'a</think>b</think>c'.split('</think>')[-1].lstrip('\n') }} {{ 'a</think>b'.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith(('a', 'b')) }} {{ 'abc'.endswith('b', 0, 2) }}
{{ 'abc'.startswith(['a']) }}
{{ 'abc'.upper() }} {{ 'ABC'.lower() }} {{ 'a bc'.title() }} {{ 'aBC'.capitalize() }} {{ 'aBc'.swapcase() }} {{ 'AB'.casefold() }} {{ "it's" .title() }} {{ 'ß'.upper() }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'ab'.replace('', '.') }}
{{ 'abcb'.find('b') }} {{ 'abcb'.rfind('b') }} {{ 'abc'.find('z') }} {{ 'abc'.index('c') }} {{ 'abcb'.rindex('b') }} {{ 'ébc'.find('b') }} {{ 'abcb'.find('b', 2) }} {{ 'abcb'.count('b') }} {{ 'aaa'.count('') }}
{{ 'abc'.index('z') }}
{{ ', '.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join(table) }} {{ '-'.join(words | map('upper')) }}
{{ ', '.join([1]) }}
{{ 'a'.ljust(3) }}| {{ 'a'.rjust(3, '.') }} {{ 'a'.center(4, '-') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }}
{{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('z') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removesuffix('') }}
{{ 'a\nb\r\nc'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ 'a\tb'.expandtabs(4) }} {{ 'a\x0bb\u2028c'.splitlines() }}
{{ 'abc'.isalpha() }} {{ 'a1'.isalnum() }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ' '.isspace() }} {{ 'abc'.islower() }} {{ 'ABC'.isupper() }} {{ 'Abc'.istitle() }} {{ '²'.isdigit() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }} {{ '1'.isdecimal() }} {{ 'a_1'.isidentifier() }} {{ 'abc'.isascii() }} {{ 'a'.isprintable() }}
{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abc'[1:] }} {{ 'abcdef'[::2] }} {{ 'abc'[::-1] }} {{ 'héé'[1:2] }} {{ 'abc'[5:] }}| {{ 'abc'[:-1] }} {{ 'abc'[-2:] }}
{{ 'abc'[10] }}|
{{ 'abc'.nosuch() }}
{{ 'abc'.upper }}
{{ 'abc'.encode() }}
{{ 'ß'.casefold() }}
{{ 'a{}'.format_map({}) }} {{ 'abc'.translate({97: 'x'}) }}
# Methods of lists and dicts
{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 2).index(2) }} {{ (1, 1).count(1) }}
{{ [1].append(2) }}
{{ [3, 1].sort() }}
{{ [1].pop() }}
{{ [1, 2].copy() }} {{ {'a': 1}.copy() }}
{{ {'a': 1}.update({'b': 2}) }}
{{ {'a': 1}.pop('a') }}
{{ {'a': 1}.setdefault('a', 2) }}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': none}.get('a', 2) }} {{ table.get('a') }}
{{ {'a': 1}.nosuch() }}
{{ [1, 2, 3][1:] }} {{ [1, 2, 3][::-1] }} {{ [1, 2, 3][-1] }} {{ [1, 2, 3][:-1] }} {{ messages[1:] | length }} {{ messages[::-1][0].role }} {{ (1, 2, 3)[1:] }} {{ [1,2,3][:10] }} {{ range(10)[2:5] | list }} {{ [1, 2, 3][3:] }}
{{ [1, 2][5] }}|{{ [1, 2]['a'] }}|
{% set p = tools[0].function.parameters.properties %}{% for k, v in p.items() %}{{ k }}={{ v.type }};{% endfor %}{{ p.get('city').type }} {{ p.keys() | list }}
{{ tools[0].function.parameters.properties['items']['items'].type }} {{ tools[0]['function']['parameters']['properties']['items'].minimum }}
{% for k, v in table.items() %}{{ k }}:{{ v }}{{ ',' if not loop.last }}{% endfor %} {% for k in table %}{{ k }}{% endfor %} {% for v in table.values() %}{{ v }}{% endfor %} {{ table.items() | length }}
{{ table.items()[0] }}
{{ table.keys() }} {{ 'a' in table.keys() }} {{ table.values() | sum }} {{ table.items() | sort }}
{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[-1]['content'][0]['text'] }} {{ messages.0.role }}
{{ dict(a=1, b=2) }} {{ dict({'a': 1}, b=2) }} {{ dict([('a', 1)]) }} {{ dict() }} {{ dict(**{'x': 1}) }}
{{ {'a': 1, 'a': 2} }} {{ {'a': 1} == {'a': 1.0} }} {{ {1: 'x'}[1] }} {{ {1: 'x'}[1.0] }} {{ {true: 'x'}[1] }}
{{ [1, [2, 3]] | length }} {{ [[1, 2], [3, 4]] | map('join', '-') | list }} {{ [[1, 2], [3]] | sum(start=[]) }}
# Blocks: for
{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {{ loop.previtem }}<{{ loop.nextitem }} {{ loop.cycle('a', 'b') }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %} {% for x in [1, 2] %}{% if loop.previtem is defined %}p{% endif %}{% if loop.nextitem is not defined %}n{% endif %}{% endfor %}
{% for x in [] %}a{% else %}b{% endfor %} {% for x in [1, 2, 3] if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{% endfor %} {% for x in [1] if x > 1 %}{% else %}none{% endfor %}
{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for x in [1, 2] recursive %}{{ x }}{% if x == 1 %}({{ loop([8, 9]) }}){% endif %}{% endfor %}
{% for x in [[1, [2, [3]]]] recursive %}{% if x is sequence %}[{{ loop(x) }}]{% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% for i in [1, 2] %}{% set y = i %}{% endfor %}{{ y }}|{{ i }}|
{% set ns = namespace(n=0, l=[]) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}{{ ns['n'] }}
{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns.y }}|{{ ns.y is defined }}{% set ns2 = namespace({'a': 1}, b=2) %}{{ ns2.a }}{{ ns2.b }}
{% set ns = namespace(_a=1) %}
{% set t = {} %}{% set t.a = 1 %}
{{ namespace(a=1) }}
{% for i in [1, 2] %}{% for j in [3, 4] %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }};{% endfor %} {% for i in [1] %}{% set outer = loop %}{% for j in [1, 2] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}
{% for m in messages %}{{ loop.index0 }}{{ m.role[0] }}{% endfor %} {% for m in messages | selectattr('role', 'equalto', 'user') %}{{ loop.index }}{{ loop.last }}{% endfor %} {% for m in messages | reverse %}{{ m.role[0] }}{{ loop.index }}{% endfor %}
{% for m in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}{{ index }}{% endfor %}
{% for x in (words | map('upper')) %}{{ x }}{{ loop.length }}{{ loop.last }}{{ loop.revindex }}{% endfor %}
{% for c in 'héy' %}{{ c }}.{% endfor %} {% for i in range(3, 0, -1) %}{{ i }}{% endfor %} {% for i in range(0) %}{% endfor %}
{% for x in [1, 2, 3] %}{{ loop.cycle('odd', 'even') }} {{ 'last' if loop.last else 'more' }}{% endfor %}
{{ range(200000) | length }}
# Blocks: if, set, macros, others
{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}{% if none %}a{% elif '' %}b{% else %}c{% endif %}
{% if [] %}a{% endif %}{% if {} %}b{% endif %}{% if 0.0 %}c{% endif %}{% if '0' %}d{% endif %}{% if 'x' is defined %}f{% endif %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set c = (1, 2) %}{{ c }}{% set d = 1, 2 %}{{ d }}
{% set x %}a{{ 1 }} <b>{% endset %}{{ x }}|{{ x | upper }}|{{ x | length }}|{{ x + '<' }}
{% set x | upper %}abc{% endset %}{{ x }} {% filter upper %}abc{{ 'd' }}{% endfilter %} {% filter replace('a', 'b') | upper %}aa{% endfilter %}
{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c='y') }} {{ m() }}| {{ m(a=5, b=6) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3) }} {{ m(1, x=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{{ 1 }}{% endcall %} {% macro n() %}{{ caller('x') }}{% endmacro %}{% call(v) n() %}[{{ v }}]{% endcall %}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }} {{ m(1) ~ '!' }} {{ m(2) | length }} {{ m.name }}
{% macro m(x) -%}  {{ x }}  {%- endmacro %}[{{ m(1) }}] {% set r = m(2) %}{{ r + 'z' }} {{ m(3) is string }}
{% set outer = 'o' %}{% macro m() %}{{ outer }}{{ number }}{% endmacro %}{{ m() }}{% set outer = 'p' %}{{ m() }}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}| {% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}|
{% raw %}{{ x }} {% if %}{% endraw %} {# a comment #}| {{ '{{' }} {{ '{%' }} {#- trimmed -#} |
{% generation %}a{{ 1 }}{% endgeneration %} {%- generation -%} b {%- endgeneration -%} c
{% for m in messages[:2] %}{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}
{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}|
{% do [1] %}
{% include 'x' %}
{% extends 'x' %}
{% block a %}in{% endblock %}
{% trans %}a{% endtrans %}
{% nosuch %}
{% autoescape true %}{{ '<' }}{% endautoescape %}
{{ raise_exception('no ' ~ 'way') }}
{{ strftime_now('%Y') | length }} {{ strftime_now('%d %b %Y') | length > 9 }}
{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{{ j() }}c {% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}
{{ lipsum(n=1) is string }}
{% set x = [] %}{% set _ = x.append(1) %}{{ x }}
{{ range(3) | list + [9] }} {{ [1, 2] + range(2) | list }}
{{ loop }}
{{ messages | map(attribute='role') | unique | join(',') }} {{ messages | selectattr('tool_calls', 'defined') | list | length }} {{ messages | map(attribute='content') | select('string') | join('|') }}
{{ messages[2].reasoning_content }} {{ messages[2].thinking }} {{ messages[2].reasoning is defined }} {{ messages[0].thinking is defined }}
{{ (messages[2].tool_calls | first).function.arguments | items | list }} {% for k, v in messages[2].tool_calls[0].function.arguments | items %}{{ k }}:{{ v | tojson if v is not string else v }};{% endfor %}
{{ bos_token + 'a' + eos_token }} {{ pad_token is defined }} {{ add_generation_prompt }} {{ enable_thinking is defined and enable_thinking is false }}
# White space
  {% if true %}  \n  a\n  {% endif %}  \nb
a {%- if true -%} b {%- endif -%} c
{{- ' a ' -}}  b
{% if true %}\nx\n{% endif %}\ny\n\n
  {%+ if true %}x{%+ endif %}
{% if true +%}\nx{% endif %}
a\n  {# c #}\n b {#- d -#} \n c
\n\n{{ 1 }}\n\n
{{ 1 }}\n
x{{ '\n' }}
{%- for x in [1, 2] %}\n  {{ x }}\n{%- endfor %}\nend
\t{% if true %}\ta{% endif %}\t\nb
{% for m in messages[:1] -%}\n   {{ m.role }}   \n{%- endfor %}
  text {% if true %} mid {% endif %} tail  \n  {{ 1 }}  \n
{% set x = 1 %}\n{% set y = 2 %}\n{{ x }}{{ y }}
a\r\n{% if true %}\r\nb\r\n  {% endif %}\r\nc{{ 'x\r\ny' }}\r
{{ "a\nb" }}{{ 'c
{{ 'a' }}}} {{ '}}' }} {{ {'a': {'b': 1}} }} {{ {'a': {'b': 1}}.a.b }}
{% raw %}\n  x\n{% endraw %}\ny
{%- set x = 'a' -%}\n\n\n{{- x }}
   {#- c -#}   x
{%- if false %}\n{%- else %}\n  b\n{%- endif %}\n
{% for m in messages[:2] %}{% generation %}{{ loop.index }}{{ loop.last }}{% endgeneration %}{% endfor %}
{% set ns = namespace(n=0) %}{% generation %}{% set ns.n = 3 %}{% endgeneration %}{{ ns.n }}
{{ tools[0].function.parameters.properties.items }}
{% set ns = namespace(items=[1]) %}{{ ns.items }}{{ ns.items | length }}
{% if tools[0].function.parameters.properties.items %}a{% endif %}
{{ [1, 2, 3] | join(', ') | upper }}{{ (1, 2) | join }}
{{ 1e-05 ~ '' }}
# Whole templates
{{ bos_token }}{% for message in messages if message.content is string %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
{%- if tools is iterable and tools | length > 0 %}{{- 'TOOLS' }}{%- endif %}{%- for m in messages %}{{ m.role }}{% endfor %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}{{ system_message }}{{ loop_messages | length }}
{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{%- macro json_type(x) %}{%- if x.type == 'array' %}list[{{ json_type(x['items']) }}]{%- elif x.type is string %}{{ x.type }}{%- else %}any{%- endif %}{%- endmacro %}{%- for name, x in tools[0].function.parameters.properties.items() %}{{ name }}: {{ json_type(x) }}{{ ' = ' ~ x.default | tojson if x.default is defined }};{% endfor %}
{%- for message in messages %}{%- if message.content is string %}{{ message.content }}{%- elif message.content is iterable %}{%- for part in message.content %}{%- if part.type == 'text' %}{{ part.text }}{%- endif %}{%- endfor %}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- if message.tool_calls is defined and message.tool_calls is not none %}{%- for call in message.tool_calls %}{%- set call = call.function if call.function is defined else call %}<tool_call>\n{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}\n</tool_call>{%- endfor %}{%- endif %}{%- endfor %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{{ ns.last_query_index }}
'''


def cases():
    group = ""
    for line in TEMPLATES.strip("\n").split("\n"):
        if line.startswith("# "):
            group = line[2:]
            continue
        # Only line feeds and carriage returns outside of expressions stand for themselves; within quotes they are the
        # template's own escapes, which mean the same.
        template = line
        if group == "White space" or group == "Whole templates":
            template = line.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t")
        yield group, template


def main():
    out = []
    for group, template in cases():
        try:
            text = utils.render_jinja_template([MESSAGES], tools=TOOLS, chat_template=template, add_generation_prompt=True, **KWARGS)
            text = text[0][0] if isinstance(text, tuple) else text[0]
        except Exception as error:
            text = None
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
        if text is not None and " at 0x" in text:
            # A Python object's address: no template means that.
            text, reason = None, "an address of the machine"
        case = {"group": group, "template": template, "expected": text}
        if text is None:
            case["reason"] = reason
        out.append(case)
    written = {"transformers": transformers.__version__, "jinja2": jinja2.__version__, "messages": MESSAGES, "tools": TOOLS, "kwargs": KWARGS, "cases": out}
    path = pathlib.Path(__file__).with_name("cases.json")
    path.write_text(json.dumps(written, ensure_ascii=True, indent=1) + "\n")
    errors = sum(case["expected"] is None for case in out)
    print(len(out), "cases,", errors, "errors")
    for case in out:
        if case["expected"] is None:
            print(repr(case["template"])[:90], "->", case["reason"][:110])


main()
