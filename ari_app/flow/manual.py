"""The manual for the people who answer the phones (docs/sop.zh.md), written from the table. Pure."""

from __future__ import annotations

from ari_app.flow.identity import Element
from ari_app.flow.sop import ELEMENTS, ENTRIES, MENUS, QUESTIONS, SOP, TRIES, Heard, State

ELEMENTS_ZH = {
    Element.FIRM: "律师事务所名称的拼音首字母",
    Element.NAME: "姓名的拼音首字母",
    Element.LICENCE: "执业证号后四位",
    Element.MOBILE: "登记的手机号",
    Element.CASE: "案号后五位",
}

HEAD = """\
# 三铃热线流程手册

> 本文件由 `ari_app/flow/sop.py` 的流程表生成（`sanling sop --write`），请勿手改；`make check` 会核对是否最新。

来电人说的每一步、座席按的每一个键，都在下面的表里。表里没有的组合不改变任何事。
任何一问连续 {tries} 次没有输入或输入有误，系统不再追问；核身最多 {tries} 轮。
核身未通过时，系统**从不**告诉来电人哪一项不符，也不透露案件内容；哪几项未核实只显示在座席一侧。

## 座席要点

| 什么时候 | 做什么 |
|---|---|
| 上班 | 话机注册后拨 `*11`，输入密码，按 `#`（也可直接拨 `*11` 加密码） |
| 坐在别人的话机 | 拨 `*11*`，输入自己的工号和密码（或 `*11工号*密码`）；来电随人走，原来在此签入的同事自动签出 |
| 话机响铃 | 三声之内接听；拒接、忙线、三声未接都会暂停接听，拨 `*14` 恢复 |
| 接起后 | 先听到一句耳语（身份、是否核身、来意），随后与来电人接通 |
| 谈到胜诉概率、判决时间、赔偿金额 | 按 `*5`，双方听到风险提示 |
| 要请教二线律师 | 按 `*1`（来电人听音乐）；`*2` 切换，`*3` 三方，`*4` 交给律师，`*0` 回到来电人；挂机等于交给对方 |
| 要转走 | 按 `*7`、线路（1 当事人、2 律师、3 二线）或工号、`#`，如 `*7602#` |
| 谈完 | 按 `*6` 或挂机，系统请来电人打分，再播放结束语，五秒后挂机 |
| 话后处理中 | 拨 `*17`、需求（1 节点、2 材料、3 时间、4 情绪）、结果（1 当场答复、2 派单），如 `*1711`；可重做 |
| 话机显示“二次来电” | 七天内为同一案件、同一需求再次来电：上次没有解决，请先问清 |
| 话后处理做完 / 来不及 | 拨 `*15` 提前结束 / `*16` 延长 |
| 离开座位 / 回来 | 拨 `*13` 加原因代码（如 `*131` 小休，听到今天还剩多少时间）暂停 / `*14` 恢复；下班拨 `*12` 签出 |
| 密码连续三次不对 | 账号锁定几分钟，之后再试 |

"""


def manual() -> str:
    """Markdown, in Chinese."""
    return "\n".join([HEAD.format(tries=TRIES), *_questions(), *_table(), *_diagram()])


def _questions() -> list[str]:
    lines = ["## 提问与按键", "", "| 状态 | 按键 |", "|---|---|"]
    for state in State:
        if state in ENTRIES:
            entry = ENTRIES[state]
            length = (
                f"{entry.shortest} 位" if entry.shortest == entry.longest else f"{entry.shortest}–{entry.longest} 位"
            )
            what = ELEMENTS_ZH[ELEMENTS[state]] if state in ELEMENTS else "回电号码，座机带区号"
            keys = f"{what}（{length}），`#` 结束，`*` 重来，`0` 转人工"
        elif state in MENUS:
            person = ("`0` 转人工",) if (state, Heard.WANTS_A_PERSON) in SOP else ()
            keys = "，".join([*(f"`{key}` {heard.value}" for key, heard in MENUS[state].items()), *person])
        else:
            continue
        lines.append(f"| {state.value} | {keys} |")
    return [*lines, ""]


def _table() -> list[str]:
    lines = ["## 流程表", "", "| 状态 | 听到 | 系统做 | 转到 |", "|---|---|---|---|"]
    for state in State:
        for (row_state, heard), (to, actions) in SOP.items():
            if row_state is state:
                done = "、".join(do.value for do in actions) or "—"
                goes = "（不变）" if to is state else to.value
                lines.append(f"| {state.value} | {heard.value} | {done} | {goes} |")
    return [*lines, ""]


def _diagram() -> list[str]:
    """The main paths; hang-ups, ceilings and repeated questions are in the table only."""
    elsewhere = {Heard.HUNG_UP, Heard.CEILING_REACHED, Heard.CEILING_NEAR}
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, heard), (to, _) in SOP.items():
        if to is not state and heard not in elsewhere:
            edges.setdefault((state, to), []).append(heard.value)
    asked = [state.name for state in QUESTIONS]
    lines = ["## 流程图", "", "```mermaid", "stateDiagram-v2", "    [*] --> RINGING"]
    lines += [f'    state "{state.value}" as {state.name}' for state in State]
    lines += [f"    {a.name} --> {b.name}: {' / '.join(words)}" for (a, b), words in edges.items()]
    lines += [
        "    ENDED --> [*]",
        "    classDef question fill:#eef",
        f"    class {','.join(asked)} question",
        "```",
        "",
    ]
    return lines
